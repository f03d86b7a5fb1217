"""Reads istiod's NameTable from its bytes, entry by entry, without the protobuf library. Pure.

Source: `istio.networking.nds.v1.NameTable`: a map (field 1) from host to {ips, registry, shortname,
namespace, alt_hosts}.
"""

import socket
from collections.abc import Iterator
from typing import Final

from pilot_agent.dns.naming import Entry
from pilot_agent.wire import WireError, fields

_TABLE, _KEY, _VALUE = 1, 1, 2
_IPS, _REGISTRY, _SHORTNAME, _NAMESPACE, _ALT_HOSTS = 1, 2, 3, 4, 5
_BYTES: Final = 2
_TEXTS: Final = frozenset({_IPS, _REGISTRY, _SHORTNAME, _NAMESPACE, _ALT_HOSTS})


def offsets(table: bytes) -> Iterator[int]:
    """Yield where each entry of the table begins: the offset of its tag.

    Raises:
        WireError: these are not the bytes of a NameTable.
    """
    at = 0
    for field in fields(table):
        if field.number == _TABLE:
            if field.wire_type != _BYTES:
                raise WireError(f"wire type {field.wire_type} of the name table's entry at offset {at}")
            yield at
        at = field.end


def read_entry(table: bytes, offset: int) -> Entry:
    """Return the entry that begins at `offset`.

    Raises:
        WireError: it is malformed, or a text in it is no UTF-8.
    """
    whole = next(fields(table, offset))
    host, values = b"", list[tuple[int, int]]()
    for field in fields(table, whole.start, whole.end):
        if field.number == _KEY:
            host = _text(table, field.wire_type, field.start, field.end)
        elif field.number == _VALUE:
            _text_type(field.wire_type, field.start)
            values.append((field.start, field.end))
    ips, alt_hosts, single = list[bytes](), list[bytes](), dict[int, bytes]()
    for start, end in values:
        for field in fields(table, start, end):
            number = field.number
            if number not in _TEXTS:
                continue
            text = _text(table, field.wire_type, field.start, field.end)
            if number == _IPS:
                ips.append(text)
            elif number == _ALT_HOSTS:
                alt_hosts.append(text)
            else:
                single[number] = text
    return Entry(
        host,
        tuple(ips),
        single.get(_REGISTRY, b""),
        single.get(_SHORTNAME, b""),
        single.get(_NAMESPACE, b""),
        tuple(alt_hosts),
    )


def ipv4s(entry: Entry) -> list[bytes]:
    """Return the packed IPv4 addresses of an entry, in its order; what is no address is skipped."""
    return [packed for ip in entry.ips if b":" not in ip and (packed := _packed(socket.AF_INET, ip))]


def ipv6s(entry: Entry) -> list[bytes]:
    """Return the packed IPv6 addresses; an IPv4-mapped literal is one, and a zone is cut off."""
    found = [ip.partition(b"%")[0] for ip in entry.ips if b":" in ip]
    return [packed for ip in found if (packed := _packed(socket.AF_INET6, ip))]


def _packed(family: int, ip: bytes) -> bytes | None:
    try:
        return socket.inet_pton(family, ip.decode())
    except (OSError, ValueError):  # ValueError: a NUL in it, or no UTF-8
        return None


def _text(table: bytes, wire_type: int, start: int, end: int) -> bytes:
    _text_type(wire_type, start)
    text = table[start:end]
    if not text.isascii():
        require_text(table, start, end)
    return text


def require_text(table: bytes, start: int, end: int) -> None:
    """See whether a text of the table is one.

    Raises:
        WireError: it is no UTF-8.
    """
    try:
        table[start:end].decode()
    except UnicodeDecodeError as error:
        raise WireError(f"text of the name table at offset {start} is no UTF-8: {error}") from error


def _text_type(wire_type: int, at: int) -> None:
    if wire_type != _BYTES:
        raise WireError(f"wire type {wire_type} in the name table at offset {at} expected={_BYTES}")
