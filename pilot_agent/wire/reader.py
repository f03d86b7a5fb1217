"""Walks the top-level fields of one encoded message."""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are no protobuf message; the text says what was wrong and at which offset."""


class Field(NamedTuple):
    """One field: for VARINT `value` is the number; for the others `start` and `end` bound its bytes."""

    number: int
    wire_type: int
    value: int
    start: int
    end: int


def fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """Yield the fields of the message in `data[start:end]`, in order.

    Raises:
        WireError: a tag, varint or length is not well-formed, or reaches past the end. Groups (wire
            types 3 and 4) are not part of proto3 and refused.
    """
    at, stop = start, len(data) if end is None else end
    while at < stop:
        tag, at = _varint(data, at, stop)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"field number {number} at offset {at}")
        if wire_type == BYTES:
            length, at = _varint(data, at, stop)
            if length > stop - at:
                raise WireError(f"field {number} of {length} bytes at offset {at}: only {stop - at} left")
            yield Field(number, wire_type, 0, at, at + length)
            at += length
        elif wire_type == VARINT:
            value, after = _varint(data, at, stop)
            yield Field(number, wire_type, value, at, after)
            at = after
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
            if size > stop - at:
                raise WireError(f"field {number} of {size} bytes at offset {at}: only {stop - at} left")
            yield Field(number, wire_type, int.from_bytes(data[at : at + size], "little"), at, at + size)
            at += size
        else:
            raise WireError(f"wire type {wire_type} of field {number} at offset {at}")


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= stop:
            raise WireError(f"varint cut off at offset {at}")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if result >= 1 << 64:
                raise WireError(f"varint above 64 bits at offset {at}")
            return result, at
        shift += 7
        if shift >= 70:
            raise WireError(f"varint of more than ten bytes at offset {at}")
