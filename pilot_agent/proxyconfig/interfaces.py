"""The machine's network interfaces and their addresses, asked of the kernel over rtnetlink.

psutil would tell the same, but its import takes 14 ms of the way from exec to Envoy, and the agent proper
does not need it until Envoy runs.
"""

import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final

Interfaces = Mapping[str, tuple[str, ...]]
"""Interface name → its addresses, of interfaces that are up and not the loopback."""

_DUMP: Final = 0x0001 | 0x0300  # NLM_F_REQUEST, NLM_F_DUMP
_GET_LINK, _GET_ADDRESS, _ERROR, _DONE = 18, 22, 2, 3
_LINK_NAME: Final = 3  # IFLA_IFNAME
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL: on a point-to-point link only the latter is ours
_UP, _LOOPBACK = 0x1, 0x8
_HEADER, _LINK, _OF_ADDRESS, _ATTRIBUTE = (
    struct.Struct(form) for form in ("=IHHII", "=BxHiII", "=BBBBI", "=HH")
)
_LIMIT_S: Final = 5.0
_ANSWER_BYTES: Final = 1 << 16


def read_interfaces() -> Interfaces:
    """Return the interfaces that are up, but for the loopback, with their IP addresses, in index order.

    Raises:
        OSError: the kernel does not answer.
    """
    names = {
        index: name
        for index, flags, name in _links(_dump(_GET_LINK))
        if flags & _UP and not flags & _LOOPBACK
    }
    found: dict[int, list[str]] = {index: [] for index in names}
    for index, address in _addresses(_dump(_GET_ADDRESS)):
        if index in found:
            found[index].append(address)
    return {names[index]: tuple(found[index]) for index in sorted(found)}


def _dump(kind: int) -> list[bytes]:
    """Return the bodies of all messages that answer a dump request."""
    bodies: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
        kernel.settimeout(_LIMIT_S)
        kernel.send(_HEADER.pack(_HEADER.size + 1, kind, _DUMP, 1, 0) + b"\0")  # family: any
        while True:
            data, at = kernel.recv(_ANSWER_BYTES), 0
            while at + _HEADER.size <= len(data):
                length, got, _, _, _ = _HEADER.unpack_from(data, at)
                if got == _DONE:
                    return bodies
                if got == _ERROR or length < _HEADER.size:
                    raise OSError(f"rtnetlink refused request {kind}")
                bodies.append(data[at + _HEADER.size : at + length])
                at += length + 3 & ~3


def _links(bodies: list[bytes]) -> Iterator[tuple[int, int, str]]:
    """Yield (index, flags, name)."""
    for body in bodies:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        name = _attributes(body, _LINK.size).get(_LINK_NAME, b"")
        yield index, flags, name.rstrip(b"\0").decode(errors="replace")


def _addresses(bodies: list[bytes]) -> Iterator[tuple[int, str]]:
    """Yield (index of the interface, address) for IPv4 and IPv6."""
    for body in bodies:
        family, _, _, _, index = _OF_ADDRESS.unpack_from(body)
        attributes = _attributes(body, _OF_ADDRESS.size)
        packed = attributes.get(_LOCAL) or attributes.get(_ADDRESS)
        if packed and family in (socket.AF_INET, socket.AF_INET6):
            yield index, socket.inet_ntop(family, packed)


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = body[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
