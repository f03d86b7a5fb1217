"""The format of one type's file: a header, then records that are appended, each under checksums.

    "XLKG" version(2) length(4) crc(4) | header as msgpack
    kind(1) length(8) crc of both(4) crc of the body(4) | body     … again and again

A kill in the middle of an append tears the last record, which a reader leaves out; everything before
it is whole. Numbers are big-endian; CRC-32 is against accidents, not against whoever can write here.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import msgspec

from pilot_agent.unreadable import UNREADABLE

FORMAT_VERSION: Final = 1
ACCEPTED: Final = 1
"""A response that Envoy accepted, as istiod sent it. The body is the encoded message."""
RETAIN: Final = 2
"""Keep these alone of what was accepted before. The body is a msgpack map, see `keeper.Retain`."""

_MAGIC: Final = b"XLKG"
_PROLOGUE: Final = struct.Struct("!4sHII")
_HEAD: Final = struct.Struct("!BQ")
_CHECKS: Final = struct.Struct("!II")
HEAD_BYTES: Final = _HEAD.size + _CHECKS.size
HEADER_LIMIT_BYTES: Final = 1 << 16


class StoreError(ValueError):
    """The file cannot be used; the text says why. It is never a reason to fail: the file is ignored."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Whose file it is."""

    identity: tuple[str, ...]  # of the node, see `store.Identity`
    variant: str
    type_url: str


class Found(NamedTuple):
    """One whole record; the body lies at `data[start:end]`."""

    kind: int
    start: int
    end: int


class Buffer(Protocol):
    """Bytes or a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...


def encode_header(header: Header) -> bytes:
    body = msgspec.msgpack.encode(header)
    return _PROLOGUE.pack(_MAGIC, FORMAT_VERSION, len(body), zlib.crc32(body)) + body


def encode_head(kind: int, body: bytes) -> bytes:
    """Return what stands before a record's body."""
    return head_of(kind, len(body), zlib.crc32(body))


def head_of(kind: int, length_bytes: int, checksum: int) -> bytes:
    """Return what stands before a body of this length and CRC-32."""
    head = _HEAD.pack(kind, length_bytes)
    return head + _CHECKS.pack(zlib.crc32(head), checksum)


def read_header(data: Buffer) -> tuple[Header, int]:
    """Return the header and the offset of the first record.

    Raises:
        StoreError: it is no such file, of another version, or damaged.
    """
    if len(data) < _PROLOGUE.size:
        raise StoreError(f"only {len(data)} bytes")
    magic, version, length, checksum = _PROLOGUE.unpack(data[: _PROLOGUE.size])
    if magic != _MAGIC:
        raise StoreError(f"magic got={magic!r} expected={_MAGIC!r}")
    if version != FORMAT_VERSION:
        raise StoreError(f"format version got={version} expected={FORMAT_VERSION}")
    end = _PROLOGUE.size + length
    body = bytes(data[_PROLOGUE.size : end]) if length <= HEADER_LIMIT_BYTES else b""
    if len(body) != length or zlib.crc32(body) != checksum:
        raise StoreError("the header is damaged")
    try:
        return msgspec.msgpack.decode(body, type=Header), end
    except UNREADABLE as error:
        raise StoreError(f"the header does not fit: {error}") from error


def walk(data: Buffer, at: int) -> Iterator[Found]:
    """Yield the records from offset `at`, without their bodies' checksums; a torn last one is left out.

    Raises:
        StoreError: a record's head is damaged, so that nothing behind it can be found.
    """
    size = len(data)
    while size - at >= HEAD_BYTES:
        head = bytes(data[at : at + HEAD_BYTES])
        if zlib.crc32(head[: _HEAD.size]) != _CHECKS.unpack_from(head, _HEAD.size)[0]:
            raise StoreError(f"the record at offset {at} is damaged")
        kind, length = _HEAD.unpack_from(head)
        at += HEAD_BYTES
        if length > size - at:
            return
        yield Found(kind, at, at + length)
        at += length


def read_body(data: Buffer, found: Found) -> bytes:
    """Return a record's body.

    Raises:
        StoreError: its checksum is wrong.
    """
    body = bytes(data[found.start : found.end])
    (checksum,) = struct.unpack("!I", data[found.start - 4 : found.start])
    if zlib.crc32(body) != checksum:
        raise StoreError(f"the record at offset {found.start - HEAD_BYTES} is damaged")
    return body


def end_of_whole(data: Buffer) -> int:
    """Return the offset behind the last whole record: where to go on appending.

    Raises:
        StoreError: as `read_header` and `walk`.
    """
    _, at = read_header(data)
    for found in walk(data, at):
        at = found.end
    return at
