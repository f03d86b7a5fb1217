"""Workers that were there before anybody asked for one."""

import queue
import socket

from actors.messages.control import RunWorker
from actors.runtime.context import WorkerFinished
from actors.runtime.workers import WorkerDesk, read_frame, write_frame

OK = b"\0"


def test_an_early_worker_that_is_no_more_is_replaced_by_another() -> None:
    early, its_end = socket.socketpair()
    its_end.close()
    asked: list[RunWorker] = []
    ends: list[socket.socket] = []
    finished: queue.SimpleQueue[WorkerFinished] = queue.SimpleQueue()

    def fork(wish: RunWorker, descriptor: int) -> None:
        asked.append(wish)
        ends.append(socket.socket(fileno=descriptor))
        write_frame(ends[0], OK + b"made")

    desk = WorkerDesk(ask=fork, deliver=finished.put, prestarted={"key": early.detach()})
    number = desk.run("key", b"wanted", timeout_s=5.0)

    assert finished.get(timeout=5.0) == WorkerFinished(worker_id=number, kind="key", result=b"made", error="")
    with ends[0] as end:
        assert read_frame(end) == b"wanted"
    assert [(wish.kind, wish.worker_id) for wish in asked] == [("key", number)]


def test_an_early_worker_answers_without_another_being_asked_for() -> None:
    early, its_end = socket.socketpair()
    finished: queue.SimpleQueue[WorkerFinished] = queue.SimpleQueue()
    with its_end:
        desk = WorkerDesk(ask=_nobody, deliver=finished.put, prestarted={"key": early.detach()})
        number = desk.run("key", b"wanted", timeout_s=5.0)
        assert read_frame(its_end) == b"wanted"
        write_frame(its_end, OK + b"made")
        assert finished.get(timeout=5.0) == WorkerFinished(
            worker_id=number, kind="key", result=b"made", error=""
        )


def _nobody(wish: RunWorker, descriptor: int) -> None:
    raise AssertionError(f"asked for {wish} with {descriptor}")
