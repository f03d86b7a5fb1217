"""What to do with one packet of a client: answer it, forward it, or say nothing. Pure.

Source: the reference's DNS server, and the screening of the DNS library below it.
"""

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from pilot_agent.dns import wire
from pilot_agent.dns.table import Found, NameTable
from pilot_agent.dns.wire import Header, MalformedError, Question

TTL_S: Final = 30
UDP_MIN_BYTES: Final = 512
UDP_MAX_BYTES: Final = 65_507
TCP_MAX_BYTES: Final = 65_535

Shuffle = Callable[[list[bytes]], None]


class Query(NamedTuple):
    """A question that can be answered or forwarded."""

    data: bytes  # the packet as it came
    header: Header
    question: Question
    limit_bytes: int  # of the reply

    @property
    def question_bytes(self) -> bytes:
        return self.data[wire.HEADER_BYTES : self.question.end]


class Refusal(NamedTuple):
    """The reply to what is no query of ours; it is counted nowhere."""

    reply: bytes


def read_query(data: bytes, *, tcp: bool) -> Query | Refusal | None:
    """Return the query in a packet, the reply that refuses it, or None: nothing is to be said to it."""
    if len(data) < wire.HEADER_BYTES:
        return None
    header = wire.read_header(data)
    if header.flags & wire.QR:
        return None
    if header.opcode not in (wire.QUERY, wire.NOTIFY):
        return _refusal(header, wire.NOTIMP)
    if header.questions != 1 or header.answers > 1 or header.authorities > 1 or header.additionals > 2:
        return _refusal(header, wire.FORMERR)
    try:
        question = wire.read_question(data)
        rest = header.answers + header.authorities + header.additionals
        edns_bytes = wire.read_records(data, question.end, rest)[1] if rest else -1
    except MalformedError:
        return _refusal(header, wire.FORMERR)
    limit = TCP_MAX_BYTES if tcp else min(max(edns_bytes, UDP_MIN_BYTES), UDP_MAX_BYTES)
    return Query(data, header, question, limit)


def answer(query: Query, table: NameTable | None, *, shuffle: Shuffle = random.shuffle) -> bytes | None:
    """Return the answer from the table; None: the name or type is not in it, and is to be forwarded.

    A known name without an address of the family that was asked for gives NOERROR without an answer:
    NXDOMAIN would be taken for the whole name by a client that asks for both families at once.
    """
    kind, name = query.question.kind, query.question.name
    if table is None or kind not in (wire.A, wire.AAAA):
        return None
    found = table.lookup(name)
    if found is None:
        return None
    addresses = found.addresses(ipv6=kind == wire.AAAA)
    if len(addresses) > 1:
        shuffle(addresses)
    return _known(query, found, addresses)


def failure(query: Query) -> bytes:
    """Return SERVFAIL: there is no table yet, or no name server replied."""
    return wire.message(_reply_header(query.header, wire.SERVFAIL), query.question_bytes)


def _refusal(header: Header, rcode: int) -> Refusal:
    opcode = header.flags & wire.OPCODE if rcode == wire.NOTIMP else 0
    flags = wire.QR | opcode | header.flags & (wire.RD | wire.CD) | rcode
    return Refusal(wire.message(Header(header.id, flags, 0, 0, 0, 0)))


def _reply_header(asked: Header, rcode: int, *, more_flags: int = 0, answers: int = 0) -> Header:
    copied = asked.flags & wire.OPCODE
    if asked.opcode == wire.QUERY:
        copied |= asked.flags & (wire.RD | wire.CD)
    return Header(asked.id, wire.QR | copied | more_flags | rcode, 1, answers, 0, 0)


def _known(query: Query, found: Found, addresses: list[bytes]) -> bytes:
    """Build the answer: whole and uncompressed if that fits, else compressed and cut at the end."""
    asked = query.question_bytes
    question = asked[:-4].lower()  # without type and class; lengths of labels are no letters
    target = wire.wire_name(found.target) if found.target and addresses else b""
    owner = target or question
    room = query.limit_bytes - wire.HEADER_BYTES - len(asked)
    kind = query.question.kind
    records = [wire.record(question, wire.CNAME, TTL_S, target)] if target else []
    records += [wire.record(owner, kind, TTL_S, address) for address in addresses]
    flags = wire.AA
    if sum(map(len, records)) > room:
        records = _compressed(asked, question, target, kind, addresses)
        fitting = _fitting(records, room)
        if fitting < len(records):
            flags |= wire.TC
            del records[fitting:]
    header = _reply_header(query.header, wire.NOERROR, more_flags=flags, answers=len(records))
    return wire.message(header, asked, *records)


def _compressed(
    asked: bytes, question: bytes, target: bytes, kind: int, addresses: list[bytes]
) -> list[bytes]:
    """Return the records with pointers. The question is pointed to unless its case would show."""
    asks_in_lower_case = asked.startswith(question)
    owner = wire.pointer(wire.HEADER_BYTES) if asks_in_lower_case else question
    at = wire.HEADER_BYTES + len(asked)
    if not target:
        first = wire.record(owner, kind, TTL_S, addresses[0])
        rest = wire.pointer(wire.HEADER_BYTES if asks_in_lower_case else at)
        return [first, *(wire.record(rest, kind, TTL_S, address) for address in addresses[1:])]
    alias = wire.record(owner, wire.CNAME, TTL_S, target)
    pointed = wire.pointer(at + len(alias) - len(target))
    return [alias, *(wire.record(pointed, kind, TTL_S, address) for address in addresses)]


def _fitting(records: list[bytes], room: int) -> int:
    """Return how many records fit from the first on."""
    for number, each in enumerate(records):
        room -= len(each)
        if room < 0:
            return number
    return len(records)
