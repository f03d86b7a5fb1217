"""DNS messages as bytes (RFC 1035, 6891): as much of them as a proxy must look at. Pure.

Reading walks a message once and copies only the name that was asked for. A compression pointer must
point before the place where it stands, so every name ends; all lengths are checked.
"""

import struct
from typing import Final, NamedTuple

HEADER_BYTES: Final = 12
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_QUESTION: Final = struct.Struct("!HH")
_PAIR: Final = struct.Struct("!HH")

QR, AA, TC, RD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0010
OPCODE: Final = 0x7800
QUERY, NOTIFY = 0, 4
NOERROR, FORMERR, SERVFAIL, NOTIMP = 0, 1, 2, 4
A, CNAME, AAAA, OPT = 1, 5, 28, 41
IN: Final = 1

MAX_NAME_BYTES: Final = 255
_MAX_LABEL: Final = 63
_POINTER: Final = 0xC0
_POINTERS_LIMIT: Final = 126
"""In one name; without it a reply of 64 KiB keeps the loop busy for six seconds. Source: the reference's
DNS library.
"""


class MalformedError(ValueError):
    """The bytes are no DNS message; the text says what was wrong and at which offset."""


class AnotherReplyError(MalformedError):
    """A reply to something else than what was asked."""


class Header(NamedTuple):
    """The first twelve bytes."""

    id: int
    flags: int
    questions: int
    answers: int
    authorities: int
    additionals: int

    @property
    def opcode(self) -> int:
        return (self.flags & OPCODE) >> 11


class Question(NamedTuple):
    """One question and where it ends."""

    name: bytes  # in lower case, with a dot at its end; one inside of a label is `\046`
    kind: int
    end: int


def read_header(data: bytes) -> Header:
    """Return the header of a message of 12 bytes or more."""
    return Header._make(_HEADER.unpack_from(data))


def read_question(data: bytes) -> Question:
    """Return the first question of a message.

    Raises:
        MalformedError: it is cut off, its name too long or compressed (there is nothing before it).
    """
    labels, at = list[bytes](), HEADER_BYTES
    try:
        while length := data[at]:
            if length > _MAX_LABEL or at > HEADER_BYTES + MAX_NAME_BYTES:
                raise MalformedError(f"label of {length} bytes in the question at offset {at}")
            labels.append(data[at + 1 : at + 1 + length])
            at += 1 + length
        kind, _ = _QUESTION.unpack_from(data, at + 1)
    except (IndexError, struct.error):
        raise MalformedError(f"question cut off at offset {at} of {len(data)}") from None
    if at + 1 - HEADER_BYTES > MAX_NAME_BYTES:
        raise MalformedError(f"name of {at + 1 - HEADER_BYTES} bytes in the question")
    name = b".".join(labels).lower() + b"."
    if name.count(b".") != len(labels) and labels:  # no name of a table has such a label, but a wildcard may
        name = b"".join(label.replace(b".", b"\\046").lower() + b"." for label in labels)
    return Question(name, kind, at + 5)


def read_records(data: bytes, at: int, count: int) -> tuple[int, int]:
    """Walk `count` resource records from offset `at`; return where they end, and the EDNS size.

    The EDNS size is that of the last OPT record, -1 if there is none.

    Raises:
        MalformedError: a record is cut off, or its name does not end.
    """
    edns_bytes, size = -1, len(data)
    for _ in range(count):
        at = _skip_name(data, at)
        if at + _RECORD.size > size:
            raise MalformedError(f"record cut off at offset {at} of {size}")
        kind, cls, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size + length
        if at > size:
            raise MalformedError(f"record data of {length} bytes ends at offset {at} of {size}")
        if kind == OPT:
            _check_options(data, at - length, at)
            edns_bytes = cls
    return at, edns_bytes


def check_reply(reply: bytes, question_id: int, question: bytes) -> None:
    """See whether a name server's reply answers this question and can be read to its end.

    Args:
        reply: The message.
        question_id: The id of the query.
        question: The question's bytes: name, type, class. A reply without a question, as servers give
            that cannot or do not want to read ours, is taken too.

    Raises:
        AnotherReplyError: it is the answer to something else, or no answer.
        MalformedError: it cannot be read.
    """
    if len(reply) < HEADER_BYTES:
        raise MalformedError(f"reply bytes got={len(reply)} expected>={HEADER_BYTES}")
    header = read_header(reply)
    if not header.flags & QR or header.id != question_id:
        raise AnotherReplyError(f"reply id got={header.id} expected={question_id}")
    at = HEADER_BYTES
    for number in range(header.questions):
        start, at = at, _skip_name(reply, at) + _QUESTION.size
        if at > len(reply):
            raise MalformedError(f"question cut off at offset {start} of {len(reply)}")
        if number == 0 and reply[start:at].lower() != question.lower():
            raise AnotherReplyError("reply to another question")
    read_records(reply, at, header.answers + header.authorities + header.additionals)


def wire_name(name: bytes) -> bytes:
    """Return the uncompressed form of a name that ends with a dot."""
    return b"".join(b"%c%s" % (len(label), label) for label in name.split(b".")[:-1] if label) + b"\0"


def record(owner: bytes, kind: int, ttl_s: int, data: bytes) -> bytes:
    """Return a resource record of class IN; `owner` is a name's wire form or a pointer."""
    return owner + _RECORD.pack(kind, IN, ttl_s, len(data)) + data


def pointer(offset: int) -> bytes:
    """Return what stands for the name at this offset, which must be below 16,384."""
    return (0xC000 | offset).to_bytes(2, "big")


def message(header: Header, *parts: bytes) -> bytes:
    """Return the message of a header and what comes behind it."""
    return _HEADER.pack(*header) + b"".join(parts)


def _skip_name(data: bytes, at: int) -> int:
    """Return the offset behind a name, having followed its pointers to the end."""
    end = -1  # behind the first pointer, where the name ends in the message
    total = pointers = 0
    limit = at
    try:
        while length := data[at]:
            if length < _POINTER:
                if length > _MAX_LABEL:
                    raise MalformedError(f"label type {length >> 6} at offset {at}")
                total += length + 1
                if total >= MAX_NAME_BYTES:
                    raise MalformedError(f"name of more than {MAX_NAME_BYTES} bytes before offset {at}")
                at += length + 1
                continue
            target = (length & ~_POINTER) << 8 | data[at + 1]
            if end < 0:
                end = at + 2
            if target >= limit:
                raise MalformedError(f"compression pointer at offset {at} to {target}: not before it")
            pointers += 1
            if pointers > _POINTERS_LIMIT:
                raise MalformedError(f"more than {_POINTERS_LIMIT} compression pointers in a name at {at}")
            at = limit = target
    except IndexError:
        raise MalformedError(f"name cut off at offset {at} of {len(data)}") from None
    return at + 1 if end < 0 else end


def _check_options(data: bytes, at: int, end: int) -> None:
    while at < end:
        if at + _PAIR.size > end:
            raise MalformedError(f"EDNS option cut off at offset {at}")
        _, length = _PAIR.unpack_from(data, at)
        at += _PAIR.size + length
        if at > end:
            raise MalformedError(f"EDNS option of {length} bytes at offset {at - length}")
