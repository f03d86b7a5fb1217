"""The proxy's own sockets: UDP and TCP on each address."""

import socket
from collections.abc import Iterable, Sequence
from typing import Final

from pilot_agent.dns.options import FAILED, DnsError

_BACKLOG: Final = 512
_UDP_QUEUE_BYTES: Final = 1 << 20
"""Asked for; the kernel gives net.core.rmem_max. What waits there outlives whoever serves it."""

IP_PKTINFO: Final = 8  # <linux/in.h>; Python 3.11 has no name for it


def bind(addresses: Iterable[tuple[str, int]]) -> list[socket.socket]:
    """Return bound sockets, UDP and TCP in turn.

    Raises:
        DnsError: one of them cannot be had; none is left open.
    """
    found: list[socket.socket] = []
    try:
        for host, port in addresses:
            found.append(_bound("udp", socket.SOCK_DGRAM, host, port))
            found.append(_bound("tcp", socket.SOCK_STREAM, host, port))
    except DnsError:
        for sock in found:
            sock.close()
        raise
    return found


def adopt(descriptors: Sequence[int]) -> list[socket.socket]:
    """Return the sockets that a predecessor has bound."""
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def is_wildcard(sock: socket.socket) -> bool:
    """Return whether a socket is bound to every address of its host."""
    return sock.getsockname()[0] in ("0.0.0.0", "::")


def _bound(network: str, kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE)[
            0
        ]
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: it cannot even be written as a host name
        words = f"{getattr(error, 'strerror', None) or error}".lower()
        raise DnsError(f"{FAILED}: listen {network} {shown}: {words}") from error
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
        else:
            _prepare_udp(sock)
    except OSError as error:
        sock.close()
        words = (error.strerror or str(error)).lower()
        raise DnsError(f"{FAILED}: listen {network} {shown}: bind: {words}") from error
    return sock


def _prepare_udp(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_QUEUE_BYTES)
    if is_wildcard(sock):  # a reply must come from the address that was asked
        if sock.family == socket.AF_INET6:  # tells it of IPv4 clients too
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
