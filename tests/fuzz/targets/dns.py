"""DNS packets of clients and name servers, and istiod's name tables."""

import contextlib
from typing import Final

import dns.message

from pilot_agent.dns import responder, wire
from pilot_agent.dns.checking import check
from pilot_agent.dns.index import build
from pilot_agent.dns.naming import Naming
from pilot_agent.dns.responder import Query, Refusal
from pilot_agent.dns.table import NameTable
from pilot_agent.dns.wire import MalformedError
from pilot_agent.wire import WireError
from tests.support.name_tables import Host, encoded, table_of

_NAMING: Final = Naming.of(namespace="ns1", domain="ns1.svc.cluster.local", search=("ns1.svc.cluster.local",))
_HOSTS: Final = {
    "www.google.com": Host(["1.1.1.1"], "External"),
    "six.example": Host(["2001:db8::6"], "External"),
    "*.wildcard": Host(["10.10.10.10"], "External"),
    "details.ns2.svc.cluster.local": Host(["1.2.3.4"], "Kubernetes", "details", "ns2"),
}
_TABLE: Final = table_of(_HOSTS, _NAMING)


def target(data: bytes) -> None:
    """Every reply of ours must be one that our own check of replies takes."""
    for tcp in (False, True):
        query = responder.read_query(data, tcp=tcp)
        if isinstance(query, Refusal):
            assert len(query.reply) == wire.HEADER_BYTES
        elif isinstance(query, Query):
            for reply in (responder.answer(query, _TABLE), responder.failure(query)):
                if reply is not None:
                    wire.check_reply(reply, query.header.id, query.question_bytes)
    with contextlib.suppress(MalformedError):
        query_id = int.from_bytes(data[:2], "big")
        wire.check_reply(data, query_id, data[wire.HEADER_BYTES : wire.HEADER_BYTES + 20])
    _table(data)


def _table(data: bytes) -> None:
    try:
        check(data)
    except WireError:
        refused = True
    else:
        refused = False
    try:
        index = build(data, _NAMING)
    except WireError:
        assert refused
        return
    assert not refused
    NameTable(data, index, _NAMING).lookup(b"www.google.com.")


def seeds() -> list[bytes]:
    made = []
    for name, kind, edns in (
        ("www.google.com.", "A", False),
        ("a.wildcard.", "AAAA", True),
        (".", "TXT", True),
    ):
        query = dns.message.make_query(name, kind, use_edns=edns)
        made += [query.to_wire(), dns.message.make_response(query).to_wire()]
    return [*made, encoded(_HOSTS)]
