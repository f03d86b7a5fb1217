"""The few requests to the kernel's routing that capture needs, over rtnetlink: no `ip` has to be installed.

Messages and constants: rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_TABLE = 4, 15
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 6, 10, 15, 16
_RTN_LOCAL, _RTPROT_BOOT, _FR_ACT_TO_TABLE = 2, 3, 1
_RT_SCOPE_UNIVERSE, _RT_SCOPE_HOST = 0, 254
_RECEIVE_BYTES: Final = 1 << 18


class FwmarkRule(NamedTuple):
    """A rule that sends packets with a mark to a routing table."""

    family: int
    mark: int
    mask: int
    table: int
    priority: int


class Route(NamedTuple):
    """A route of one table; `local_default` is what TPROXY needs: everything is local, at an interface."""

    family: int
    table: int
    local_default: bool
    interface: int


class Netlink:
    """A socket to the kernel's routing, for one network namespace: that of the caller."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def addresses(self) -> list[str]:
        """Return all addresses of all interfaces in the kernel's order: IPv4 first, by interface."""
        found = []
        for payload in self._dump(_RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            family, attributes = payload[0], dict(_attributes(payload[8:]))
            data = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if data and family in FAMILIES.values():
                found.append(socket.inet_ntop(family, data))
        return found

    def add_address(self, family: int, address: str, bits: int, interface: int) -> bool:
        """Add an address to an interface; False: it is there already."""
        return self._change(_RTM_NEWADDR, _CREATE | _EXCL, _address(family, address, bits, interface))

    def delete_address(self, family: int, address: str, bits: int, interface: int) -> bool:
        """Delete an address; False: it is not there."""
        return self._change(_RTM_DELADDR, 0, _address(family, address, bits, interface))

    def has_address(self, family: int, address: str) -> bool:
        packed = socket.inet_pton(FAMILIES[family], address)
        return any(
            payload[0] == FAMILIES[family] and dict(_attributes(payload[8:])).get(_IFA_ADDRESS) == packed
            for payload in self._dump(_RTM_GETADDR, struct.pack("=BBBBI", FAMILIES[family], 0, 0, 0, 0))
        )

    def rules(self, family: int) -> list[FwmarkRule]:
        """Return the rules that look at the mark."""
        found = []
        for payload in self._dump(_RTM_GETRULE, struct.pack("=BBBBBBBBI", FAMILIES[family], *[0] * 8)):
            attributes = dict(_attributes(payload[12:]))
            # A mark of 0 is told by its mask alone.
            if {_FRA_FWMARK, _FRA_FWMASK} & attributes.keys() and payload[7] == _FR_ACT_TO_TABLE:
                mark, mask = (_number(attributes.get(kind, b"")) for kind in (_FRA_FWMARK, _FRA_FWMASK))
                table = _number(attributes.get(_FRA_TABLE, b"")) or payload[4]
                priority = _number(attributes.get(_FRA_PRIORITY, b""))
                found.append(FwmarkRule(family, mark, mask, table, priority))
        return found

    def add_rule(self, rule: FwmarkRule) -> None:
        """Add `fwmark MARK lookup TABLE`, one more each time; priority 0: above those that are there."""
        self._change(_RTM_NEWRULE, _CREATE, _rule(rule))

    def delete_rule(self, rule: FwmarkRule) -> bool:
        return self._change(_RTM_DELRULE, 0, _rule(rule))

    def routes(self, family: int) -> list[Route]:
        found = []
        for payload in self._dump(_RTM_GETROUTE, struct.pack("=BBBBBBBBI", FAMILIES[family], *[0] * 8)):
            attributes = dict(_attributes(payload[12:]))
            table = _number(attributes.get(_RTA_TABLE, b"")) or payload[4]
            local_default = payload[7] == _RTN_LOCAL and payload[1] == 0
            found.append(Route(family, table, local_default, _number(attributes.get(_RTA_OIF, b""))))
        return found

    def add_local_default(self, family: int, table: int, interface: int) -> bool:
        """Add `local default dev INTERFACE table TABLE`; False: there is such a route already."""
        return self._change(_RTM_NEWROUTE, _CREATE | _EXCL, _local_default(family, table, interface))

    def delete_local_default(self, family: int, table: int, interface: int) -> bool:
        return self._change(_RTM_DELROUTE, 0, _local_default(family, table, interface))

    def _change(self, kind: int, flags: int, payload: bytes) -> bool:
        """Return whether something changed: an existing thing to add or a missing one to delete is fine.

        Raises:
            OSError: the kernel refused.
        """
        sequence = self._send(kind, _REQUEST | _ACK | flags, payload)
        for number, message_kind, data in self._receive():
            if number == sequence and message_kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", data)[0]
                if code == 0:
                    return True
                error = OSError(code, os.strerror(code))
                if isinstance(error, FileExistsError | FileNotFoundError | ProcessLookupError):
                    return False
                if code == _EADDRNOTAVAIL and not flags:
                    return False
                raise error
        raise OSError("the kernel closed the netlink socket")

    def _dump(self, kind: int, payload: bytes) -> Iterator[bytes]:
        sequence = self._send(kind, _REQUEST | _DUMP, payload)
        for number, message_kind, data in self._receive():
            if number != sequence:
                continue
            if message_kind == _NLMSG_DONE:
                return
            if message_kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", data)[0]
                raise OSError(code, os.strerror(code))
            yield data

    def _send(self, kind: int, flags: int, payload: bytes) -> int:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, flags, self._sequence, 0)
        self._socket.send(header + payload)
        return self._sequence

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        while data := self._socket.recv(_RECEIVE_BYTES):
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                if length < _HEADER.size:
                    return
                yield sequence, kind, data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3


_EADDRNOTAVAIL: Final = 99


def _address(family: int, address: str, bits: int, interface: int) -> bytes:
    packed = socket.inet_pton(FAMILIES[family], address)
    head = struct.pack("=BBBBI", FAMILIES[family], bits, 0, _RT_SCOPE_UNIVERSE, interface)
    return head + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)


def _rule(rule: FwmarkRule) -> bytes:
    head = struct.pack("=BBBBBBBBI", FAMILIES[rule.family], 0, 0, 0, 0, 0, 0, _FR_ACT_TO_TABLE, 0)
    attributes = {_FRA_TABLE: rule.table, _FRA_FWMARK: rule.mark, _FRA_FWMASK: rule.mask}
    if rule.priority:
        attributes[_FRA_PRIORITY] = rule.priority
    return head + b"".join(_attribute(kind, struct.pack("=I", value)) for kind, value in attributes.items())


def _local_default(family: int, table: int, interface: int) -> bytes:
    head = struct.pack(
        "=BBBBBBBBI", FAMILIES[family], 0, 0, 0, 0, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, 0
    )
    return (
        head
        + _attribute(_RTA_TABLE, struct.pack("=I", table))
        + _attribute(_RTA_OIF, struct.pack("=I", interface))
    )


def _attribute(kind: int, data: bytes) -> bytes:
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data).ljust(
        (_ATTRIBUTE.size + len(data) + 3) & ~3, b"\0"
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _number(data: bytes) -> int:
    return int.from_bytes(data[:4], sys.byteorder)
