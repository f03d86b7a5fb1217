"""The wire format against itself and against the protobuf library."""

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.wire import Field, WireError, bytes_field, fields, message, text_field, varint_field
from pilot_agent.wire.reader import BYTES, FIXED32, FIXED64, VARINT

NUMBERS = st.integers(1, 2**29 - 1)
UINT64 = st.integers(0, 2**64 - 1)
ENCODED = st.one_of(
    st.tuples(NUMBERS, st.just(VARINT), UINT64),
    st.tuples(NUMBERS, st.just(BYTES), st.binary(max_size=300)),
)


@given(st.lists(ENCODED))
def test_what_was_written_is_read_in_its_order(parts: list[tuple[int, int, int | bytes]]) -> None:
    data = message(
        *(
            varint_field(number, value) if isinstance(value, int) else bytes_field(number, value)
            for number, _, value in parts
        )
    )
    read = [
        (
            field.number,
            field.wire_type,
            field.value if field.wire_type == VARINT else data[field.start : field.end],
        )
        for field in fields(data)
    ]
    assert read == [part for part in parts if part[2] != 0]


@given(st.text(), st.text(), st.integers(-(2**31), 2**31 - 1), st.booleans())
def test_the_protobuf_library_reads_what_we_write(
    name: str, type_name: str, number: int, optional: bool
) -> None:
    data = message(
        text_field(1, name), varint_field(3, number), text_field(6, type_name), varint_field(17, optional)
    )
    theirs = descriptor_pb2.FieldDescriptorProto.FromString(data)
    assert (theirs.name, theirs.number, theirs.type_name, theirs.proto3_optional) == (
        *(name, number, type_name),
        optional,
    )


@given(st.text(), st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False), st.binary())
def test_we_read_what_the_protobuf_library_writes(text: str, small: int, double: float, data: bytes) -> None:
    theirs = descriptor_pb2.UninterpretedOption(
        identifier_value=text, negative_int_value=small, double_value=double, string_value=data
    )
    encoded = theirs.SerializeToString()
    read = {field.number: field for field in fields(encoded)}
    assert encoded[read[3].start : read[3].end] == text.encode()
    assert read[5].value == small % 2**64
    assert read[6].wire_type == FIXED64
    assert read[6].end - read[6].start == 8
    assert encoded[read[7].start : read[7].end] == data


@given(st.binary(max_size=60))
def test_any_bytes_are_read_to_the_end_or_refused(data: bytes) -> None:
    try:
        read = list(fields(data))
    except WireError:
        return
    assert all(0 <= field.start <= field.end <= len(data) for field in read)
    assert (read[-1].end if read else 0) == len(data)


@given(st.lists(ENCODED, min_size=1), st.data())
def test_a_message_that_is_cut_off_inside_a_field_is_refused(
    parts: list[tuple[int, int, int | bytes]], draw: st.DataObject
) -> None:
    number, _, value = parts[-1]
    whole = varint_field(number, value or 1) if isinstance(value, int) else bytes_field(number, value)
    cut = draw.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(WireError):
        list(fields(whole[:cut]))


@given(st.binary(max_size=20), st.binary(max_size=20), st.text())
def test_a_range_of_the_bytes_is_read_as_a_message_of_its_own(before: bytes, after: bytes, text: str) -> None:
    inner = bytes_field(1, text.encode())
    data = before + inner + after
    (found,) = fields(data, len(before), len(before) + len(inner))
    assert data[found.start : found.end] == text.encode()


def test_a_field_may_not_reach_beyond_the_range() -> None:
    data = bytes_field(1, b"abcdef")
    with pytest.raises(WireError, match="field 1 of 6 bytes at offset 2: only 3 left"):
        list(fields(data, 0, 5))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x00\x01", "field number 0 at offset 1"),
        (b"\x0b", "wire type 3 of field 1"),
        (b"\x0c", "wire type 4 of field 1"),
        (b"\x0e", "wire type 6 of field 1"),
        (b"\x08", "varint cut off at offset 1"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "varint above 64 bits"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "varint of more than ten bytes"),
        (b"\x0a\x02x", "field 1 of 2 bytes at offset 2: only 1 left"),
        (b"\x0d\x00", "field 1 of 4 bytes at offset 1: only 1 left"),
        (b"\x09\x00", "field 1 of 8 bytes at offset 1: only 1 left"),
        (b"\x80\x80\x80\x80\x10\x00", "field number 536870912"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place(data: bytes, text: str) -> None:
    with pytest.raises(WireError, match=text):
        list(fields(data))


def test_the_four_kinds_of_field() -> None:
    data = (
        b"\x08\x96\x01\x11" + (7).to_bytes(8, "little") + b"\x1a\x01x" + b"\x25" + (9).to_bytes(4, "little")
    )
    assert list(fields(data)) == [
        Field(1, VARINT, 150, 1, 3),
        Field(2, FIXED64, 7, 4, 12),
        Field(3, BYTES, 0, 14, 15),
        Field(4, FIXED32, 9, 16, 20),
    ]


def test_defaults_are_left_out_but_an_empty_message_is_not() -> None:
    assert varint_field(1, 0) == b""
    assert text_field(1, "") == b""
    assert bytes_field(1, b"") == b"\x0a\x00"
    assert message() == b""


def test_a_negative_number_takes_ten_bytes_as_proto3_wants_it() -> None:
    assert varint_field(1, -1) == b"\x08" + b"\xff" * 9 + b"\x01"
