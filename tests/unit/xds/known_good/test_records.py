"""The file's format: whatever bytes stand there, only what was written whole is read."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.wire import bytes_field
from pilot_agent.xds.known_good import records
from pilot_agent.xds.known_good.content import read_content
from pilot_agent.xds.known_good.records import Header, StoreError
from tests.support.xds_messages import CDS, response

HEADER = Header(identity=("sidecar~1", "istiod:15012"), variant="delta", type_url=CDS)
BODIES = [
    response("delta", CDS, str(number), str(number), **{f"c{number}": b"x" * number}).SerializeToString()
    for number in range(4)
]


def whole_file(bodies: list[bytes] = BODIES) -> bytes:
    parts = [records.encode_header(HEADER)]
    for body in bodies:
        parts += [records.encode_head(records.ACCEPTED, body), body]
    return b"".join(parts)


def test_what_was_written_is_read() -> None:
    header, content = read_content(whole_file())
    assert header == HEADER
    assert set(content.resources) == {b"c0", b"c1", b"c2", b"c3"}
    assert content.version == "3"


@settings(deadline=None)
@given(cut=st.integers(0, len(whole_file()) - 1))
def test_a_file_that_was_cut_anywhere_gives_a_beginning_of_it_or_nothing(cut: int) -> None:
    data = whole_file()[:cut]
    try:
        _, content = read_content(data)
    except StoreError:
        assert cut < len(records.encode_header(HEADER))
        return
    assert set(content.resources) == {b"c%d" % number for number in range(len(content.resources))}
    assert records.end_of_whole(data) <= cut


@settings(deadline=None, max_examples=150)
@given(at=st.integers(0, len(whole_file()) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_noticed(at: int, value: int) -> None:
    data = bytearray(whole_file())
    if data[at] == value:
        return
    data[at] = value
    try:
        header, content = read_content(bytes(data))
    except StoreError:
        return
    # A changed length may make the last record look cut off; nothing wrong is read in any case.
    assert header == HEADER
    assert all(one.body in b"".join(BODIES) for one in content.resources.values())


@settings(deadline=None)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        read_content(data)


@settings(deadline=None)
@given(body=st.binary(max_size=200))
def test_arbitrary_bytes_under_right_checksums_are_read_as_a_response_or_refused(body: bytes) -> None:
    data = whole_file([bytes_field(2, b""), body])
    with contextlib.suppress(StoreError):
        read_content(data)


def test_another_version_of_the_format_is_refused_by_its_number() -> None:
    data = bytearray(whole_file())
    data[5] = 9
    with pytest.raises(StoreError, match="format version got=9 expected=1"):
        read_content(bytes(data))
