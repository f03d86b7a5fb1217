"""A notebook whose memory holds anything: what was saved comes back, or nothing; then it is written again."""

import os
from typing import Final

import msgspec

from actors.runtime.notebook import FileNotebook, make_notebook_file

_SLOT: Final = 1 << 36


class State(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    text: str


_SAVED: Final = (State(number=1, text="old"), State(number=2, text="new" * 40))


def target(data: bytes) -> None:
    """Write `data` over one slot or both (by its first byte), as a torn write or a stray one would."""
    descriptor = make_notebook_file("fuzz")
    try:
        notebook = FileNotebook(descriptor)
        for state in _SAVED:
            notebook.save(state)
        where, at, rest = data[:1], int.from_bytes(data[1:2], "big"), data[2:]
        for number, offset in enumerate((0, _SLOT)):
            if where and where[0] >> number & 1:
                os.pwrite(descriptor, rest, offset + at % 64)
        again = FileNotebook(descriptor)
        found = again.restore(State)
        assert found is None or found in _SAVED or _is_sealed(rest), found
        again.holds()
        again.save(State(number=3, text="after"))
        assert FileNotebook(descriptor).restore(State) == State(number=3, text="after")
    finally:
        os.close(descriptor)


def _is_sealed(data: bytes) -> bool:
    """Return whether the input is a slot with its checksums: then it is as good as saved."""
    return b"note" in data


def seeds() -> list[bytes]:
    descriptor = make_notebook_file("seed")
    try:
        notebook = FileNotebook(descriptor)
        for state in _SAVED:
            notebook.save(state)
        slots = [os.pread(descriptor, 300, offset) for offset in (0, _SLOT)]
    finally:
        os.close(descriptor)
    return [bytes((where, 0)) + slot for slot in slots for where in (1, 2, 3)] + [b"\3\5" + bytes(60)]
