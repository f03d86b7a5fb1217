"""A notebook survives a kill at any byte of a write."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.notebook import FileNotebook, make_notebook_file


@dataclass(frozen=True, slots=True)
class State:
    text: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Other:
    text: str
    key: bytes


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = make_notebook_file("test")
    yield descriptor
    os.close(descriptor)


def test_an_empty_notebook_restores_nothing(file: int) -> None:
    assert FileNotebook(file).restore(State) is None


def test_what_was_saved_last_is_restored_by_a_successor(file: int) -> None:
    first = FileNotebook(file)
    for number in range(7):
        first.save(State(f"state {number}", bytes(number)))
        assert FileNotebook(file).restore(State) == State(f"state {number}", bytes(number))


def test_a_successor_goes_on_where_the_predecessor_was(file: int) -> None:
    FileNotebook(file).save(State("one", b""))
    FileNotebook(file).save(State("two", b""))
    third = FileNotebook(file)
    third.save(State("three", b""))
    assert third.restore(State) == State("three", b"")


class KilledHere(BaseException):
    """The process would be dead now."""


def test_torn_at_every_byte_it_restores_the_old_state_or_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = State("old", b"k" * 20), State("the new one", b"n" * 45)
    real = os.pwrite
    outcomes = []
    for limit in range(200):
        descriptor = make_notebook_file("torn")
        try:
            notebook = FileNotebook(descriptor)
            notebook.save(State("older", b""))
            notebook.save(old)
            left = limit

            def torn(fd: int, data: bytes, offset: int) -> int:
                nonlocal left
                allowed = min(len(data), left)
                left -= allowed
                if allowed:
                    real(fd, bytes(data)[:allowed], offset)
                if allowed < len(data):
                    raise KilledHere
                return allowed

            monkeypatch.setattr(os, "pwrite", torn)
            with contextlib.suppress(KilledHere):
                notebook.save(new)
            monkeypatch.setattr(os, "pwrite", real)
            successor = FileNotebook(descriptor)
            outcomes.append(successor.restore(State))
            successor.save(State("after", b""))
            assert FileNotebook(descriptor).restore(State) == State("after", b"")
        finally:
            os.close(descriptor)
    assert set(map(repr, outcomes)) == {repr(old), repr(new)}
    assert outcomes[0] == old
    assert outcomes[-1] == new


@given(st.binary(max_size=400), st.integers(0, 1), st.integers(0, 300))
def test_garbage_over_a_slot_never_restores_something_that_was_not_saved(
    garbage: bytes, slot: int, at: int
) -> None:
    descriptor = make_notebook_file("garbage")
    try:
        notebook = FileNotebook(descriptor)
        saved = [State("a" * 30, b"1"), State("b" * 30, b"2")]
        for state in saved:
            notebook.save(state)
        os.pwrite(descriptor, garbage, (0, 1 << 36)[slot] + at)
        assert FileNotebook(descriptor).restore(State) in [*saved, None]
    finally:
        os.close(descriptor)


def test_the_state_of_another_type_is_ignored(file: int) -> None:
    FileNotebook(file).save(State("x", b""))
    assert FileNotebook(file).restore(Other) is None


def test_the_state_of_another_version_is_ignored(file: int) -> None:
    @dataclass(frozen=True)
    class Versioned:
        VERSION: ClassVar[int] = 1
        text: str

    FileNotebook(file).save(Versioned("x"))
    Versioned.VERSION = 2
    assert FileNotebook(file).restore(Versioned) is None


def test_pages_of_a_large_state_are_given_back(file: int) -> None:
    notebook = FileNotebook(file)
    for _ in range(2):
        notebook.save(State("", b"x" * 3_000_000))
    for _ in range(2):
        notebook.save(State("small", b""))
    assert os.fstat(file).st_blocks * 512 < 100_000
    assert FileNotebook(file).restore(State) == State("small", b"")


def test_a_large_state_is_kept_once_and_a_kill_in_its_successor_leaves_it_whole(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = FileNotebook(file)
    states = [State(str(number), bytes([number]) * 3_000_000) for number in range(4)]
    for state in states[:3]:
        notebook.save(state)
        assert os.fstat(file).st_blocks * 512 < 3_100_000
        assert FileNotebook(file).restore(State) == state
    real, left = os.pwrite, 4

    def torn(fd: int, data: bytes, offset: int) -> int:
        nonlocal left
        left -= 1
        if not left:
            raise KilledHere
        return real(fd, data[: 1 << 20], offset)

    monkeypatch.setattr(os, "pwrite", torn)
    with pytest.raises(KilledHere):
        notebook.save(states[3])
    monkeypatch.setattr(os, "pwrite", real)
    successor = FileNotebook(file)
    assert successor.restore(State) == states[2]
    successor.save(states[3])
    assert FileNotebook(file).restore(State) == states[3]


def test_a_large_state_of_another_version_stays_until_it_is_overwritten(file: int) -> None:
    notebook = FileNotebook(file)
    notebook.save(Other("the version before", b"x" * 3_000_000))
    notebook.save(State("new", b"y" * 3_000_000))
    other = FileNotebook(file).restore(Other)
    assert other is not None
    assert other.text == "the version before"
