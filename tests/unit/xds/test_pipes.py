"""The sockets of a leg: order, backpressure, and an end at any byte."""

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pilot_agent.xds.pipes import DownstreamEnd, UpstreamEnd, make_leg
from tests.support.waiting import wait_for

BIG = b"b" * (3 << 20)  # more than a socket holds

Leg = tuple[DownstreamEnd, UpstreamEnd[str]]


def a_leg() -> Leg:
    near, far = make_leg()
    return near, UpstreamEnd(*far)


@pytest.fixture
def leg() -> Iterator[Leg]:
    made = a_leg()
    yield made
    for each in made:
        each.end()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("body", [b"", b"a", b"c" * 70_000, BIG], ids=len)
def test_messages_of_any_size_pass_both_ways(leg: Leg, pool: ThreadPoolExecutor, body: bytes) -> None:
    near, far = leg
    near.send(body)
    assert far.receive() == body
    sent = pool.submit(far.send, body)
    assert near.receive() == body
    assert sent.result(10)


def test_requests_never_block_and_keep_their_order(leg: Leg) -> None:
    near, far = leg
    bodies = [BIG, b"", b"1", BIG, *(b"%d" % number for number in range(1000))]
    for body in bodies:
        near.send(body)
    assert [far.receive() for _ in bodies] == bodies
    wait_for(lambda: not any(each.name == "requests" for each in threading.enumerate()), what="the end")
    near.send(b"later")
    assert far.receive() == b"later"


def test_a_response_waits_until_the_one_before_is_taken(leg: Leg, pool: ThreadPoolExecutor) -> None:
    near, far = leg
    assert far.send(b"1")
    second = pool.submit(far.send, b"2")
    assert near.receive() == b"1"
    assert not second.done()
    near.taken()
    assert second.result(10)
    assert near.receive() == b"2"
    near.taken()
    assert far.wait_until_taken()
    assert far.wait_until_taken(), "nothing is in flight any more"


def test_who_waits_for_a_response_is_not_woken_by_what_it_sent(leg: Leg) -> None:
    near, far = leg
    rounds = 20

    def receive() -> None:
        while near.receive() is not None:
            near.taken()

    receiver = threading.Thread(target=receive)
    receiver.start()
    woken = 0
    for _ in range(rounds):
        assert far.send(b"r")
        before = wait_for(lambda: asleep(receiver, far), what="the receiver's waiting for the next")
        assert far.wait_until_taken()
        time.sleep(0.002)  # to be woken in
        woken += switches(receiver) - before
    far.end()
    receiver.join(10)
    assert woken < rounds / 2  # in `recv`, each time


def asleep(receiver: threading.Thread, far: UpstreamEnd[str]) -> int | None:
    """Return how often the thread has waited until now, if it waits and its answer is there."""
    before = switches(receiver)
    is_answered = bool(select.select([far._responses], [], [], 0)[0])
    return before if is_answered and switches(receiver, after_s=0.005) == before else None


def switches(thread: threading.Thread, after_s: float = 0.0) -> int:
    """Return how often the thread has waited for something."""
    time.sleep(after_s)
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def test_insertions_come_between_requests_and_wake_the_reader(leg: Leg, pool: ThreadPoolExecutor) -> None:
    near, far = leg
    waiting: Future[bytes | str | None] = pool.submit(far.receive)
    far.insert("a")
    assert waiting.result(10) == "a"
    near.send(b"1")
    far.insert("b")
    far.insert("c")
    assert [far.receive() for _ in range(3)] == ["b", "c", b"1"]


@pytest.mark.parametrize("who", [0, 1], ids=["downstream", "upstream"])
def test_an_end_wakes_everybody_at_both_sides(pool: ThreadPoolExecutor, who: int) -> None:
    near, far = leg = a_leg()
    assert far.send(b"1")
    assert near.receive() == b"1"
    waiting: list[Future[Any]] = [
        pool.submit(near.receive),
        pool.submit(far.receive),
        pool.submit(far.send, b"2"),
    ]
    leg[who].end()
    leg[who].end()
    assert [each.result(10) for each in waiting] == [None, None, False]
    near.send(b"to nobody")
    near.taken()
    far.insert("to nobody")
    assert not far.send(b"to nobody")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 99_999])
def test_a_message_that_breaks_off_at_any_byte_is_no_message(pool: ThreadPoolExecutor, size: int) -> None:
    whole = struct.pack("!Q", 99_992) + b"d" * 99_992
    (unused, other_unused), (mine, dying) = socket.socketpair(), socket.socketpair()
    near = DownstreamEnd(unused.detach(), mine.detach())
    with other_unused, dying:
        answer = pool.submit(near.receive)
        dying.sendall(whole[:size])
        dying.shutdown(socket.SHUT_RDWR)  # as the kernel does it for a process that is killed
        assert answer.result(10) is None


def test_requests_that_wait_for_a_dead_reader_are_dropped(leg: Leg) -> None:
    near, far = leg
    near.send(BIG)
    near.send(BIG)
    far.end()
    wait_for(lambda: not any(each.name == "requests" for each in threading.enumerate()), what="the end")
    for _ in range(10):
        near.send(BIG)
    assert not near._requests._waiting


def test_without_a_thread_to_send_the_rest_the_leg_is_over(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = leg

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    near.send(BIG)
    monkeypatch.undo()
    assert far.receive() is None


def test_thousands_of_legs_leave_no_descriptor_and_no_thread() -> None:
    threads, files = threading.active_count(), descriptors()
    for number in range(2000):
        near, far = a_leg()
        near.send(BIG if number % 100 == 0 else b"1")
        far.send(b"2")
        (near, far)[number % 2].end()
    del near, far
    wait_for(lambda: threading.active_count() <= threads, what="the end of all threads")
    assert descriptors() <= files


def test_a_leg_that_finds_no_descriptors_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = socket.socketpair, iter([True])

    def pair() -> tuple[socket.socket, socket.socket]:
        if next(left, None) is None:
            raise OSError(24, "Too many open files")
        return real()

    files = descriptors()
    monkeypatch.setattr(socket, "socketpair", pair)
    with pytest.raises(OSError, match="Too many"):
        make_leg()
    assert descriptors() == files
