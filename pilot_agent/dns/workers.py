"""The DNS proxy's heavy work, for short-lived processes: the index of a large table, and its page.

20,000 names take half a second of Python; in the serving process queries would wait for it.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from pilot_agent.dns.entries import ipv4s, ipv6s, offsets, read_entry
from pilot_agent.dns.index import build
from pilot_agent.dns.naming import KUBERNETES, Entry, Namer, Naming
from pilot_agent.wire import WireError

WORKERS: Final[Mapping[str, str]] = {
    "dns-index": "pilot_agent.dns.workers:index",
    "dns-page": "pilot_agent.dns.workers:page",
}

_OK, _MALFORMED = b"\0", b"\1"


class TableRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What both workers are asked with, as msgpack."""

    table: bytes
    naming: Naming


def index(request: bytes) -> bytes:
    """Return what `read_index` reads."""
    asked = msgspec.msgpack.decode(request, type=TableRequest)
    try:
        return _OK + build(asked.table, asked.naming)
    except WireError as error:
        return _MALFORMED + str(error).encode()


def read_index(result: bytes) -> bytes:
    """Return the index that a worker made.

    Raises:
        WireError: the table is malformed.
    """
    if result[:1] != _OK:
        raise WireError(result[1:].decode(errors="replace"))
    return result[1:]


def page(request: bytes) -> bytes:
    """Return the table as protobuf JSON, every generated name with it that is no entry of its own.

    Source: the reference's debug page of the name table.
    """
    asked = msgspec.msgpack.decode(request, type=TableRequest)
    namer, raw = Namer(asked.naming), asked.table
    entries = [read_entry(raw, offset) for offset in offsets(raw)]
    shown = {_text(entry.host): _as_json(entry) for entry in entries}
    for entry in entries:
        addresses = [*_addresses(entry)]
        for name in namer.names(entry) if addresses else ():
            alternate = _text(name.rstrip(b"."))
            shown.setdefault(alternate, {"ips": addresses, "registry": _text(KUBERNETES)})
    return msgspec.json.encode({"table": dict(sorted(shown.items()))})


def _as_json(entry: Entry) -> dict[str, object]:
    members = {
        "ips": [_text(ip) for ip in entry.ips],
        "registry": _text(entry.registry),
        "shortname": _text(entry.shortname),
        "namespace": _text(entry.namespace),
        "altHosts": [_text(host) for host in entry.alt_hosts],
    }
    return {name: value for name, value in members.items() if value}


def _addresses(entry: Entry) -> list[str]:
    from ipaddress import ip_address  # noqa: PLC0415  # for the page alone

    return [str(ip_address(packed)) for packed in (*ipv4s(entry), *ipv6s(entry))]


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
