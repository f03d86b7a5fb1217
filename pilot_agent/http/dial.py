"""Connects a TCP socket within a deadline; source address, linger and TLS on request."""

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pilot_agent.http.errors import ConnectError, HttpTimeoutError, authority

_AWAITING: Final = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"


class Deadline:
    """One time limit for all steps of a call; no limit when `timeout_s` is None."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def remaining_s(self) -> float | None:
        """Return the seconds left, None without a limit.

        Raises:
            HttpTimeoutError: nothing is left.
        """
        if self._end is None:
            return None
        left_s = self.left_s()
        if left_s <= 0:
            raise HttpTimeoutError(_AWAITING)
        return left_s

    def left_s(self) -> float:
        """Return the seconds left, 0 when it has passed, a day without a limit."""
        return 86_400.0 if self._end is None else max(self._end - time.monotonic(), 0.0)


Resolved = tuple[socket.AddressFamily, tuple[str, int]]
"""One address that a name stands for, with the port."""

Resolve = Callable[[str, int], Sequence[Resolved]]


class Dialing(msgspec.Struct, frozen=True, kw_only=True):
    """How a connection is made.

    A source address that this machine does not have (`::6` where no rules were installed) is passed over,
    and so is one of another family than a literal address that is dialled.
    """

    source_address: str = ""  # bound before connecting, e.g. 127.0.0.6; empty: the kernel chooses
    linger_s: int | None = None  # SO_LINGER; None: the kernel's default
    tls: bool = False  # without verification of the peer's certificate, as probes want it
    alpn: tuple[str, ...] = ()  # offered with TLS; empty: no such offer
    roots_path: str | None = None  # verify against this bundle; empty: the library's; None: do not verify
    resolve: Resolve | None = None  # instead of the system's look-up; raises ConnectError


def connect(host: str, port: int, deadline: Deadline, dialing: Dialing) -> socket.socket:
    """Return a connected socket; the addresses of `host` are tried in the resolver's order.

    Raises:
        ConnectError: no address answers; the text tells of the first, as Go's dialer does.
        HttpTimeoutError: the deadline passed.
    """
    first: ConnectError | None = None
    for family, address in (dialing.resolve or resolved)(host, port):
        try:
            return _connected(family, address, host, deadline, dialing)
        except ConnectError as error:
            first = first or error
    raise first or ConnectError(f"dial tcp: lookup {host}: no such host")


def resolved(host: str, port: int) -> list[Resolved]:
    """Return the addresses of `host` in the system's order.

    Raises:
        ConnectError: there is none.
    """
    # As bytes: getaddrinfo loads the codec for international names for any text (0.7 MB in each process).
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: it cannot even be written as a host name
        raise ConnectError(f"dial tcp: lookup {host}: no such host") from error
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]


def _connected(
    family: socket.AddressFamily, address: tuple[str, int], host: str, deadline: Deadline, dialing: Dialing
) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:  # no more descriptors, or no such family here
        raise ConnectError(f"dial tcp {authority(*address)}: socket: {words(error)}") from error
    try:
        sock.settimeout(deadline.remaining_s())
        if dialing.linger_s is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, dialing.linger_s))
        _bind(sock, dialing.source_address, literal=address[0] == host.partition("%")[0])
        sock.connect(address)
        return _wrapped(sock, host, deadline, dialing) if dialing.tls else sock
    except TimeoutError as error:
        sock.close()
        if error.errno == errno.ETIMEDOUT:
            raise ConnectError(f"dial tcp {authority(*address)}: connect: connection timed out") from error
        raise HttpTimeoutError(_AWAITING) from error
    except OSError as error:
        sock.close()
        raise ConnectError(f"dial tcp {authority(*address)}: connect: {words(error)}") from error
    except ValueError as error:  # a name that TLS cannot be asked for
        sock.close()
        raise ConnectError(f"dial tcp {authority(*address)}: tls: {error}") from error
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, source_address: str, *, literal: bool) -> None:
    if not source_address or (literal and (":" in source_address) != (sock.family == socket.AF_INET6)):
        return
    try:
        sock.bind((source_address, 0))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise


def _wrapped(sock: socket.socket, host: str, deadline: Deadline, dialing: Dialing) -> socket.socket:
    import ssl  # noqa: PLC0415  # few probes want it

    if dialing.roots_path is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=dialing.roots_path or None)
    if dialing.alpn:
        context.set_alpn_protocols(list(dialing.alpn))
    sock.settimeout(deadline.remaining_s())
    return context.wrap_socket(sock, server_hostname=host)


def words(error: OSError) -> str:
    """Return the system's words for an error in Go's spelling: all lower case."""
    if hasattr(error, "library"):  # an ssl.SSLError, whose number is not the system's
        parts = (getattr(error, name, None) for name in ("reason", "verify_message"))
        said = ": ".join(str(part) for part in parts if part) or str(error)
        return "tls: " + said.replace("_", " ").lower()
    known = error.errno is not None and error.errno in errno.errorcode
    text = os.strerror(error.errno) if known and error.errno else str(error)
    return text[:1].lower() + text[1:]
