"""The status port's listening socket, which outlives whoever serves it.

Made before the first fork and inherited by every incarnation of the server: while one is dead,
connections wait in the kernel's queue instead of being refused, and a health check through Envoy's
readiness listener does not fail for the milliseconds in between.
"""

import errno
import os
import socket
from typing import Final

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.status.options import StatusOptions

_BACKLOG: Final = 512
_log = get_logger()


class StatusListener(msgspec.Struct, frozen=True, kw_only=True):
    """Names the inherited socket; its descriptor is not to be closed in the forked child."""

    descriptor: int = -1  # -1: there is no status server


def open_listener(options: StatusOptions) -> socket.socket | None:
    """Return a socket that listens on the status port, every address, IPv4 and IPv6 alike.

    None when the port is 0 or cannot be had just now; the latter is one error line, and HealthActor tries
    again. (The reference goes on without a status server for ever.)
    """
    if options.port == 0:
        return None
    _log.info(f"Opening status port {options.port}")
    try:
        return listener_on(options.port)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        _log.error(f"Error listening on status port: listen tcp :{options.port}: bind: {words}")
        return None


def listener_on(port: int) -> socket.socket:
    """Return a socket that listens on `port`.

    Raises:
        OSError: it cannot be had just now.
    """
    try:
        return _listening(socket.AF_INET6, port)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _listening(socket.AF_INET, port)  # a kernel without IPv6


def adopt(listener: StatusListener) -> socket.socket | None:
    """Return the inherited socket; closing what is returned does not end the inherited one."""
    return None if listener.descriptor < 0 else socket.socket(fileno=os.dup(listener.descriptor))


def refuse_from_now_on(listener: socket.socket) -> None:
    """End listening for every process that holds this socket: new connections are refused at once.

    Connections that were accepted live on. Harmless when it was done before.
    """
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise


def _listening(family: socket.AddressFamily, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
