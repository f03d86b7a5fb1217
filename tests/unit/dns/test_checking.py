"""What is said of a name table before istiod gets its ACK."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pilot_agent.dns.checking import check
from pilot_agent.dns.index import build
from pilot_agent.dns.naming import Naming
from pilot_agent.wire import WireError
from proto_gen.istio.networking.nds.v1 import name_table_pb2
from tests.support.name_tables import Host, encoded

NAMING = Naming()
GOOD = encoded(
    {
        "a.example": Host(["1.1.1.1", "2001:db8::1"], "External"),
        "ünï.example": Host(["1.1.1.2"], "External", alt_hosts=["é"]),
        "long.example": Host([f"10.0.0.{n}" for n in range(100)], "Kubernetes", "l" * 200, "n"),
    }
)
BROKEN = {
    "no message": (b"\xff\xff\xff", "cut off"),
    "cut off in the last entry": (GOOD[:-1], "only .* left"),
    "an entry that is a number": (b"\x08\x01", "wire type 0"),
    "a host that is no UTF-8": (b"\x0a\x03\x0a\x01\xff", "offset 4 is no UTF-8"),
    "an address that is no UTF-8": (b"\x0a\x08\x0a\x01a\x12\x03\x0a\x01\xff", "offset 9 is no UTF-8"),
    "an address that is a number": (b"\x0a\x07\x0a\x01a\x12\x02\x08\x01", "wire type 0"),
    "a value that is four bytes": (b"\x0a\x05\x15aaaa", "wire type 5"),
    "a host beyond its entry": (b"\x0a\x03\x0a\x05aaaaa", "only 1 left"),
    "a group": (b"\x0a\x02\x1b\x1c", "wire type 3"),
}


@pytest.mark.parametrize(("raw", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_table_with_a_broken_entry_is_refused_with_the_place(raw: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        check(raw)
    with pytest.raises(WireError):
        check(GOOD + raw)


def test_texts_of_any_alphabet_long_entries_unknown_fields_and_an_empty_table_are_fine() -> None:
    unknown = b"\x0a\x05\x0a\x01a\x18\x07" + b"\x18\x07" + b"\x1a\x01\xff" + b"\x25aaaa" + b"\x29aaaaaaaa"
    for raw in (b"", GOOD, GOOD + unknown, b"\x8a\x00\x03\x0a\x01a"):
        check(raw)


_BYTE = st.sampled_from([0, 1, 2, 3, 8, 0x0A, 0x12, 0x18, 0x1A, 0x22, 0x2A, 0x61, 0x7F, 0x80, 0x8A, 0xFF])
_CHANGES = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), _BYTE), max_size=4)


def changed(changes: list[tuple[int, int]]) -> bytes:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    return bytes(data)


@given(st.one_of(st.lists(_BYTE, max_size=40).map(bytes), st.builds(changed, _CHANGES)))
@example(b"\x0a\x03\x0a\x01\xff")
@settings(max_examples=600, deadline=None)
def test_it_refuses_what_cannot_be_indexed_and_nothing_else(raw: bytes) -> None:
    assert refuses(raw) == refuses_to_index(raw)
    if not refuses(raw):
        name_table_pb2.NameTable.FromString(raw)  # which is the reference's reading; it raises nothing


def refuses(raw: bytes) -> bool:
    try:
        check(raw)
    except WireError:
        return True
    return False


def refuses_to_index(raw: bytes) -> bool:
    try:
        build(raw, NAMING)
    except WireError:
        return True
    return False


def test_twenty_thousand_names_are_looked_through_quickly() -> None:
    raw = encoded(
        {
            f"s{n}.n{n % 50}.svc.cluster.local": Host(
                [f"10.0.{n >> 8}.{n & 255}"], "Kubernetes", f"s{n}", f"n{n % 50}"
            )
            for n in range(20_000)
        }
    )
    began_s = time.process_time()
    check(raw)
    assert time.process_time() - began_s < 0.5  # 0.06 on a quiet machine
