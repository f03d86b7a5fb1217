"""What a client gets for a packet, read by dnspython: another implementation of the same formats."""

import random
import time

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pilot_agent.dns import responder, wire
from pilot_agent.dns.naming import Naming
from pilot_agent.dns.responder import Query, Refusal
from pilot_agent.dns.wire import MalformedError
from tests.support.name_tables import Host, table_of

NAMING = Naming.of(namespace="ns1", domain="ns1.svc.cluster.local", search=("ns1.svc.cluster.local",))
MANY = [f"10.1.{n >> 8}.{n & 255}" for n in range(300)]
TABLE = table_of(
    {
        "www.google.com": Host(["1.1.1.1"], "External"),
        "many.example": Host(MANY, "External"),
        "six.example": Host(["2001:db8::6", "2001:db8::7"], "External"),
        "*.wildcard": Host(["10.10.10.10"], "External"),
        "details.ns2.svc.cluster.local": Host(["1.2.3.4"], "Kubernetes", "details", "ns2"),
    },
    NAMING,
)


def ask(name: str, kind: str = "A", *, tcp: bool = False, edns_bytes: int = 0) -> dns.message.Message:
    """Return the answer to a question that the table must know."""
    asked = dns.message.make_query(name, kind, use_edns=edns_bytes > 0, payload=edns_bytes)
    query = responder.read_query(asked.to_wire(), tcp=tcp)
    assert isinstance(query, Query)
    answer = responder.answer(query, TABLE, shuffle=lambda _: None)
    assert answer is not None
    assert len(answer) <= query.limit_bytes
    return dns.message.from_wire(answer)


def records(message: dns.message.Message) -> list[str]:
    return [line for rrset in message.answer for line in rrset.to_text().splitlines()]


def test_a_known_name_is_answered_with_authority_and_30_seconds() -> None:
    answer = ask("www.google.com.")
    assert records(answer) == ["www.google.com. 30 IN A 1.1.1.1"]
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert answer.opt is None


def test_the_question_keeps_its_case_and_the_answer_is_in_lower_case() -> None:
    answer = ask("WWW.Google.COM.")
    assert answer.question[0].name.to_text() == "WWW.Google.COM."
    assert records(answer) == ["www.google.com. 30 IN A 1.1.1.1"]


def test_a_name_with_the_search_domain_is_an_alias() -> None:
    assert records(ask("WWW.google.com.ns1.svc.cluster.local.")) == [
        "www.google.com.ns1.svc.cluster.local. 30 IN CNAME www.google.com.",
        "www.google.com. 30 IN A 1.1.1.1",
    ]


def test_a_wildcard_answers_under_the_name_that_was_asked() -> None:
    assert records(ask("a.b.Wildcard.")) == ["a.b.wildcard. 30 IN A 10.10.10.10"]


@pytest.mark.parametrize("label", [r"a\.b", r"\.", r"A\.WILDCARD", r"a\\\.b", r"\000", r"\255\@"])
def test_a_wildcard_answers_for_a_label_of_any_bytes(label: str) -> None:
    name = dns.name.from_text(f"{label}.wildcard.")
    (answer,) = ask(name.to_text()).answer
    assert answer.name == name
    assert [record.to_text() for record in answer] == ["10.10.10.10"]


@pytest.mark.parametrize("name", [r"a\.wildcard.", r"www\.google.com.", r"x.a\.wildcard."])
def test_a_dot_inside_of_a_label_parts_no_labels(name: str) -> None:
    query = responder.read_query(dns.message.make_query(name, "A").to_wire(), tcp=False)
    assert isinstance(query, Query)
    assert responder.answer(query, TABLE) is None


def test_a_wildcard_with_the_search_domain_answers_under_the_wildcard_itself() -> None:
    assert records(ask("a.wildcard.ns1.svc.cluster.local.")) == [
        "a.wildcard.ns1.svc.cluster.local. 30 IN CNAME *.wildcard.",
        "*.wildcard. 30 IN A 10.10.10.10",
    ]


@pytest.mark.parametrize("name", ["www.google.com.", "www.google.com.ns1.svc.cluster.local.", "a.wildcard."])
def test_the_other_family_of_a_known_name_is_noerror_and_empty(name: str) -> None:
    answer = ask(name, "AAAA")
    assert (answer.rcode(), records(answer)) == (dns.rcode.NOERROR, [])
    assert answer.flags & dns.flags.AA


def test_ipv6_addresses_are_answered_to_aaaa_alone() -> None:
    assert records(ask("six.example.", "AAAA")) == [
        "six.example. 30 IN AAAA 2001:db8::6",
        "six.example. 30 IN AAAA 2001:db8::7",
    ]
    assert records(ask("six.example.", "A")) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unknown.example.", "A"),
        (".", "A"),
        ("www.google.com.", "MX"),
        ("www.google.com.", "ANY"),
    ],
)
def test_what_the_table_does_not_hold_is_to_be_forwarded(name: str, kind: str) -> None:
    query = responder.read_query(dns.message.make_query(name, kind).to_wire(), tcp=False)
    assert isinstance(query, Query)
    assert responder.answer(query, TABLE) is None
    assert responder.answer(query, None) is None


def test_the_class_of_a_question_is_ignored_and_the_answer_is_in() -> None:
    query = dns.message.make_query("www.google.com.", "A", rdclass="CH")
    read = responder.read_query(query.to_wire(), tcp=False)
    assert isinstance(read, Query)
    raw = responder.answer(read, TABLE)
    assert raw is not None
    assert raw[read.question.end :].startswith(b"\x03www\x06google\x03com\x00\x00\x01\x00\x01")
    assert raw[12 : read.question.end].endswith(b"\x00\x01\x00\x03")


def test_checking_disabled_and_recursion_desired_are_copied_and_nothing_else() -> None:
    query = dns.message.make_query("www.google.com.", "A")
    query.flags = dns.flags.CD | dns.flags.AD | dns.flags.TC
    read = responder.read_query(query.to_wire(), tcp=False)
    assert isinstance(read, Query)
    raw = responder.answer(read, TABLE)
    assert raw is not None
    assert dns.message.from_wire(raw).flags == dns.flags.QR | dns.flags.AA | dns.flags.CD


@pytest.mark.parametrize(
    "name",
    [
        "many.example.",
        "MANY.example.",
        "many.example.ns1.svc.cluster.local.",
        "Many.example.ns1.svc.cluster.local.",
    ],
)
def test_what_does_not_fit_is_compressed_and_cut_at_the_end(name: str) -> None:
    for limit in (0, 100, 512, 1232, 4096, 65535):
        answer = ask(name, edns_bytes=limit)
        found = [record.split()[-1] for record in records(answer) if " A " in record]
        assert found == MANY[: len(found)]
        assert bool(answer.flags & dns.flags.TC) == (len(found) < len(MANY))
        room = max(limit, 512) - len(answer.to_wire())
        assert len(found) == len(MANY) or room < 16 + len(name), limit
    assert len(records(ask(name, tcp=True))) >= len(MANY)


def test_all_addresses_come_in_an_order_that_is_drawn() -> None:
    raw = dns.message.make_query("many.example.", "A").to_wire()
    query = responder.read_query(raw, tcp=True)
    assert isinstance(query, Query)
    orders = set()
    for seed in range(5):
        answer = responder.answer(query, TABLE, shuffle=random.Random(seed).shuffle)
        assert answer is not None
        found = [line.split()[-1] for line in records(dns.message.from_wire(answer))]
        assert sorted(found) == sorted(MANY)
        orders.add(tuple(found))
    assert len(orders) == 5
    again = responder.answer(query, TABLE, shuffle=lambda _: None)
    assert again is not None
    assert [line.split()[-1] for line in records(dns.message.from_wire(again))] == MANY


def header(flags: int = 0x0100, qd: int = 1, an: int = 0, ns: int = 0, ar: int = 0) -> bytes:
    return b"\x12\x34" + b"".join(n.to_bytes(2, "big") for n in (flags, qd, an, ns, ar))


QUESTION = b"\x03www\x06google\x03com\x00\x00\x01\x00\x01"
NOBODY_ANSWERS = {
    "empty": b"",
    "shorter than a header": header()[:11],
    "a reply": header(flags=0x8100) + QUESTION,
}
REFUSED = {
    "an update": (header(flags=5 << 11 | 0x0100) + QUESTION, 4, 0xA900),
    "no question": (header(qd=0), 1, 0x8100),
    "two questions": (header(qd=2) + QUESTION * 2, 1, 0x8100),
    "two answers": (header(an=2) + QUESTION, 1, 0x8100),
    "two authorities": (header(ns=2) + QUESTION, 1, 0x8100),
    "three additionals": (header(ar=3) + QUESTION, 1, 0x8100),
    "cut off in the name": (header() + QUESTION[:6], 1, 0x8100),
    "cut off behind the name": (header() + QUESTION[:-1], 1, 0x8100),
    "a name that points to itself": (header() + b"\xc0\x0c\x00\x01\x00\x01", 1, 0x8100),
    "a name of 256 bytes": (
        header() + b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 3 + QUESTION[16:],
        1,
        0x8100,
    ),
    "a record that is cut off": (header(ar=1) + QUESTION + b"\x00\x00\x29\x10\x00", 1, 0x8100),
    "record data beyond the end": (
        header(ar=1) + QUESTION + b"\x00\x00\x29\x10\x00\0\0\0\0\0\x05",
        1,
        0x8100,
    ),
    "a record named in a loop": (
        header(ar=1) + QUESTION + b"\xc0\x20\x00\x01\x00\x01\0\0\0\0\0\0",
        1,
        0x8100,
    ),
    "an EDNS option beyond its end": (
        header(ar=1) + QUESTION + b"\x00\x00\x29\x10\x00\0\0\0\0\0\x04\x00\x0a\x00\x08",
        1,
        0x8100,
    ),
}


@pytest.mark.parametrize("raw", NOBODY_ANSWERS.values(), ids=NOBODY_ANSWERS.keys())
def test_what_is_no_query_gets_no_reply(raw: bytes) -> None:
    assert responder.read_query(raw, tcp=False) is None


@pytest.mark.parametrize(("raw", "rcode", "flags"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_gets_a_bare_header(raw: bytes, rcode: int, flags: int) -> None:
    refusal = responder.read_query(raw, tcp=False)
    assert isinstance(refusal, Refusal)
    assert refusal.reply == b"\x12\x34" + (flags | rcode).to_bytes(2, "big") + bytes(8)


def test_a_notify_is_handled_like_a_query() -> None:
    query = responder.read_query(header(flags=4 << 11 | 0x0110) + QUESTION, tcp=False)
    assert isinstance(query, Query)
    raw = responder.answer(query, TABLE)
    assert raw is not None
    assert wire.read_header(raw).flags == 0x8000 | 4 << 11 | 0x0400


def test_servfail_echoes_the_question() -> None:
    query = dns.message.make_query("www.google.com.", "TXT")
    read = responder.read_query(query.to_wire(), tcp=False)
    assert isinstance(read, Query)
    reply = dns.message.from_wire(responder.failure(read))
    assert (reply.id, reply.rcode(), reply.question) == (query.id, dns.rcode.SERVFAIL, query.question)


_SMALL = st.sampled_from([0, 1, 2, 3, 5, 12, 41, 63, 64, 0xC0, 255])
_MUTATIONS = st.lists(st.tuples(st.integers(0, 120), _SMALL), max_size=6)
_VALID = st.builds(
    lambda name, kind, edns: dns.message.make_query(name, kind, use_edns=edns).to_wire(),
    st.sampled_from(["www.google.com.", "a.wildcard.ns1.svc.cluster.local.", "many.example.", "x.", "."]),
    st.sampled_from(["A", "AAAA", "TXT"]),
    st.booleans(),
)


def mutated(raw: bytes, changes: list[tuple[int, int]]) -> bytes:
    data = bytearray(raw)
    for at, value in changes:
        if at < len(data):
            data[at] = value
    return bytes(data)


@given(st.one_of(st.binary(max_size=120), st.builds(mutated, _VALID, _MUTATIONS)))
@example(header(ar=1) + QUESTION + b"\xc0\x0c" * 30)
@settings(max_examples=600, deadline=None)
def test_no_packet_whatever_raises_and_every_reply_can_be_read(raw: bytes) -> None:
    for tcp in (False, True):
        query = responder.read_query(raw, tcp=tcp)
        if query is None:
            continue
        if isinstance(query, Refusal):
            assert len(query.reply) == 12
            continue
        for reply in (responder.answer(query, TABLE), responder.failure(query)):
            if reply is not None:
                wire.check_reply(reply, query.header.id, query.question_bytes)
                if wire.read_header(raw).flags >> 11 & 15 == 0:
                    assert dns.message.from_wire(reply).id == query.header.id


@given(st.one_of(st.binary(max_size=300), st.builds(mutated, _VALID, _MUTATIONS)))
@settings(max_examples=400, deadline=None)
def test_a_reply_of_a_name_server_is_taken_or_refused_whatever_it_is(raw: bytes) -> None:
    try:
        wire.check_reply(raw, 0x1234, QUESTION)
    except MalformedError:
        return
    assert raw[:2] == b"\x12\x34"


def test_what_dnspython_writes_with_compression_is_taken() -> None:
    query = dns.message.make_query("a.example.", "A")
    reply = dns.message.make_response(query)
    for number in range(40):
        name = dns.name.from_text(f"n{number}.deep.a.example.")
        reply.answer.append(dns.rrset.from_text(name, 30, "IN", "CNAME", f"n{number + 1}.deep.a.example."))
    raw = reply.to_wire()
    wire.check_reply(raw, query.id, query.to_wire()[12:])
    for end in range(len(raw)):
        with pytest.raises(MalformedError):
            wire.check_reply(raw[:end], query.id, query.to_wire()[12:])


def chained(pointers: int, records: int) -> bytes:
    """Return a reply whose records all have a name of so many pointers, each to the one before."""
    at = 12 + len(QUESTION) + 11
    chain = bytearray(1)
    for number in range(pointers - 1):
        target = at if number == 0 else at + len(chain) - 2
        chain += (0xC000 | target).to_bytes(2, "big")
    last = at + len(chain) - 2 if pointers > 1 else at
    first = b"\0\0\x10\0\1" + bytes(4) + len(chain).to_bytes(2, "big") + chain
    more = ((0xC000 | last).to_bytes(2, "big") + b"\0\1\0\1" + bytes(6)) * records
    return header(flags=0x8180, an=records + 1) + QUESTION + first + more


def test_names_of_many_pointers_cost_no_time_worth_speaking_of() -> None:
    wire.check_reply(chained(126, 5), 0x1234, QUESTION)
    assert dns.message.from_wire(chained(126, 1), continue_on_error=True).id == 0x1234
    began_s = time.process_time()
    for pointers in (127, 8000):
        with pytest.raises(MalformedError, match="compression pointers"):
            wire.check_reply(chained(pointers, 4000), 0x1234, QUESTION)
    wire.check_reply(chained(126, 5000), 0x1234, QUESTION)
    assert time.process_time() - began_s < 2.0  # 0.2 on a quiet machine; six without a limit


def test_a_question_without_an_end_is_refused_as_soon_as_its_name_is_too_long() -> None:
    endless = header() + b"\x01a" * 30_000
    began_s = time.perf_counter()
    for _ in range(100):
        assert isinstance(responder.read_query(endless, tcp=True), Refusal)
    assert time.perf_counter() - began_s < 0.2  # 5 ms each, walked to the end
