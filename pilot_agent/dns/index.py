"""An index over the raw bytes of a name table: from a name to its entry in constant time. Pure.

The table stays the bytes that istiod sent; the index is 8 bytes a slot (a tag of the name's hash, and
where the entry begins) at 70 % load. A dict of the same names would take nine times the table
(measured: docs/decisions). Both are plain bytes, so that a worker can make them and a notebook keep them.

Python's own hash is keyed at random, so no table can be made to collide; all actors and workers are
forked from one process and share the key, which `_KEY_CHECK` proves.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pilot_agent.dns.entries import ipv4s, ipv6s, offsets, read_entry
from pilot_agent.dns.naming import Entry, Namer, Naming
from pilot_agent.wire import WireError

LOAD: Final = 0.7
_MASK: Final = (1 << 64) - 1
_TAG_SHIFT: Final = 32
_OFFSET_MASK: Final = (1 << _TAG_SHIFT) - 1
_HEADER: Final = struct.Struct("=QQQQQ")  # key check, names, capacity, wildcard depths (low, high)
_KEY_CHECK: Final = hash(b"the key of this process family") & _MASK


class Hit(NamedTuple):
    """An entry that has the name that was asked for, and where it begins."""

    offset: int
    entry: Entry


class Index:
    """Finds entries of `table` by name."""

    def __init__(self, table: bytes, index: bytes, naming: Naming) -> None:
        """Use what `build` made of the same table and naming.

        Raises:
            ValueError: the index is of another family of processes, or none.
        """
        if len(index) < _HEADER.size:
            raise ValueError(f"index bytes got={len(index)} expected>={_HEADER.size}")
        header: tuple[int, ...] = _HEADER.unpack_from(index)
        check, self.names, self._capacity, low, high = header
        expected_bytes = _HEADER.size + 8 * self._capacity
        if check != _KEY_CHECK or not self._capacity or len(index) != expected_bytes:
            raise ValueError("the index was not made for this table by this family of processes")
        self.table, self.wildcard_depths = table, low | high << 64
        self._slots = memoryview(index)[_HEADER.size :].cast("Q")
        self._namer = Namer(naming)

    def find(self, name: bytes) -> list[Hit]:
        """Return the entries that have this name: at most two, the later one counts first."""
        return [
            Hit(offset, entry)
            for _, offset, entry in _walk(self._slots, self._capacity, name, self.table, self._namer)
            if entry is not None
        ]


def build(table: bytes, naming: Naming) -> bytes:
    """Return the index of a table.

    Entries without an address that can be read, and hosts that can have no name, are left out.

    Raises:
        WireError: the table is malformed anywhere, or larger than 4 GiB.
    """
    if len(table) >= _OFFSET_MASK:
        raise WireError(f"name table of {len(table)} bytes expected<{_OFFSET_MASK}")
    namer, found, depths = Namer(naming), list[tuple[bytes, int]](), 0
    for offset in offsets(table):
        entry = read_entry(table, offset)
        if not (ipv4s(entry) or ipv6s(entry)):
            continue
        for name in namer.names(entry):
            found.append((name, offset))
            if name.startswith(b"*."):
                depths |= 1 << min(name.count(b"."), 127)
    capacity = int(len(found) / LOAD) + 1
    slots = array("Q", bytes(8 * capacity))
    _insert_all(found, slots, capacity, table, namer)
    low, high = depths & _MASK, depths >> 64
    return _HEADER.pack(_KEY_CHECK, len(found), capacity, low, high) + slots.tobytes()


def _insert_all(
    found: Iterable[tuple[bytes, int]], slots: "array[int]", capacity: int, table: bytes, namer: Namer
) -> None:
    for name, offset in found:
        same = list[int]()
        at = 0
        for at, known, _ in _walk(slots, capacity, name, table, namer):
            if known >= 0:
                same.append(at)
        # `at` is the free slot at the end of the walk
        tag = (hash(name) & _MASK) >> _TAG_SHIFT << _TAG_SHIFT
        if not same:
            slots[at] = tag | offset + 1
            continue
        winners = _winners([(slots[each] & _OFFSET_MASK) - 1 for each in same] + [offset], table)
        places = [*same, at][: max(len(same), len(winners))]
        for number, place in enumerate(places):
            slots[place] = tag | winners[min(number, len(winners) - 1)] + 1


def _winners(rivals: list[int], table: bytes) -> list[int]:
    """Return those of the entries with one name that give it a family: for each family the last one."""
    entries = [read_entry(table, offset) for offset in rivals]
    last_4 = max((n for n, entry in enumerate(entries) if ipv4s(entry)), default=-1)
    last_6 = max((n for n, entry in enumerate(entries) if ipv6s(entry)), default=-1)
    return [rivals[n] for n in sorted({last_4, last_6} - {-1})]


def _walk(
    slots: "memoryview[int] | array[int]", capacity: int, name: bytes, table: bytes, namer: Namer
) -> Iterator[tuple[int, int, Entry | None]]:
    """Yield (slot, offset, entry) of each entry that has the name, and (free slot, -1, None) at the end."""
    hashed = hash(name) & _MASK
    tag, at = hashed >> _TAG_SHIFT, hashed % capacity
    while slot := slots[at]:
        if slot >> _TAG_SHIFT == tag:
            offset = (slot & _OFFSET_MASK) - 1
            entry = read_entry(table, offset)
            if name in namer.names(entry):
                yield at, offset, entry
        at = at + 1 if at + 1 < capacity else 0
    yield at, -1, None
