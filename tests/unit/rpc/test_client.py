"""The client beside our own server: order, cancelling at any step, lost connections, no leftovers."""

import gc
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pilot_agent.rpc import CallEnded, Code, Requests, Server, iterating
from pilot_agent.rpc.client import ClientCall, Target
from tests.support.waiting import wait_for

MIB = 1 << 20


def _istiod(requests: Requests, metadata: "queue.SimpleQueue[dict[str, str]]") -> Iterator[bytes]:
    """Echo; "end" ends the call with a status, "flood" is answered without end, "silence" not at all."""
    metadata.put(dict(requests.call.headers))
    for body in requests:
        if body == b"end":
            raise CallEnded(Code.PERMISSION_DENIED, "no: \N{SNOWMAN}")
        while body == b"flood":
            yield b"f" * MIB
        if body != b"silence":
            yield body


class Place:
    def __init__(self, path: str) -> None:
        self.target = Target(address=f"unix:{path}")
        self.metadata: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self.server = Server(
            {"/istiod/Ads": iterating(lambda requests: _istiod(requests, self.metadata))},
            name="istiod",
            calls_limit=10_000,
            message_limit_bytes=64 * MIB,
        )
        self.server.listen(path)
        self.server.start()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(str(tmp_path / "istiod"))
    yield made
    made.server.quit()


def a_call(target: Target, *metadata: tuple[str, str | bytes]) -> ClientCall:
    return ClientCall(target, "/istiod/Ads", metadata, limit_bytes=64 * MIB)


@pytest.fixture
def begin(place: Place) -> Iterator[Callable[[], ClientCall]]:
    begun: list[ClientCall] = []

    def call() -> ClientCall:
        begun.append(a_call(place.target, ("clusterid", "Kubernetes"), ("a-bin", b"\0\1")))
        return begun[-1]

    yield call
    for each in begun:
        each.close()


def send_from_a_thread(call: ClientCall, *bodies: bytes) -> threading.Thread:
    """The connection is made by who reads, so that nobody can send before."""
    sender = threading.Thread(target=call.send_all, args=(bodies,), daemon=True)
    sender.start()
    return sender


def test_requests_and_responses_pass_in_order_and_the_status_with_its_text(
    place: Place, begin: Callable[[], ClientCall]
) -> None:
    call = begin()
    bodies = [b"", b"a", b"b" * (5 * MIB), *(b"%d" % number for number in range(200))]
    sender = threading.Thread(target=call.send_all, args=(iter([*bodies, b"end"]),))
    sender.start()
    assert list(call.responses()) == bodies
    assert (call.code, call.details) == (Code.PERMISSION_DENIED, "no: \N{SNOWMAN}")
    sender.join(10)
    assert not sender.is_alive()
    metadata = place.metadata.get(timeout=10)
    assert (metadata["clusterid"], metadata["a-bin"]) == ("Kubernetes", "AAE")
    call.cancel()  # harmless behind the end
    call.close()


@pytest.mark.parametrize("request_", [b"silence", b"flood"], ids=["silence", "flood"])
def test_a_call_is_cancelled_while_its_reader_waits(begin: Callable[[], ClientCall], request_: bytes) -> None:
    call = begin()
    send_from_a_thread(call, request_)
    timer = threading.Timer(0.05, call.cancel)
    timer.start()
    for body in call.responses():
        assert body
    assert call.code is Code.CANCELLED
    timer.join()


def test_a_call_is_cancelled_while_it_sends(begin: Callable[[], ClientCall]) -> None:
    """The first request is larger than every window: the second waits for its turn."""
    call = begin()
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()

    def requests() -> Iterator[bytes]:
        for number in range(1000):
            asked.put(number)
            yield b"r" * (16 * MIB)

    with ThreadPoolExecutor(2) as pool:
        sender, reader = pool.submit(call.send_all, requests()), pool.submit(list, call.responses())
        asked.get(timeout=10)
        asked.get(timeout=10)
        call.cancel()
        reader.result(10)
        sender.result(10)
    assert call.code is Code.CANCELLED


def test_a_call_that_nobody_answers_is_unavailable_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    call = a_call(Target(address=f"127.0.0.1:{port}"))
    assert list(call.responses()) == []
    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert call.code is Code.UNAVAILABLE
    assert call.details == f'connection error: desc = "transport: Error while dialing: {refused}"'
    call.close()


def test_a_call_whose_server_never_speaks_can_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, ThreadPoolExecutor(2) as pool:
        call = a_call(Target(address=f"127.0.0.1:{mute.getsockname()[1]}"))
        sender = pool.submit(call.send_all, [b"1", b"2", b"3"])
        reader = pool.submit(list, call.responses())
        accepted, _ = mute.accept()
        call.cancel()
        assert reader.result(10) == []
        sender.result(10)
        assert call.code is Code.CANCELLED
        call.close()
        accepted.close()


def test_a_call_that_is_still_connecting_can_be_cancelled() -> None:
    """A listener whose queue is full takes no more connections: connecting hangs."""
    with socket.socket() as full, ThreadPoolExecutor(2) as pool:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        call = a_call(Target(address=f"127.0.0.1:{full.getsockname()[1]}"))
        reader, sender = pool.submit(list, call.responses()), pool.submit(call.send, b"1")
        call.cancel()
        assert reader.result(5) == []
        assert sender.result(5) is False
        call.close()
        for each in fillers:
            each.close()


@pytest.mark.parametrize("was_read", [False, True], ids=["unread", "left"])
def test_a_call_can_be_closed_when_it_was_left_alone(place: Place, *, was_read: bool) -> None:
    call = a_call(place.target)
    sender = send_from_a_thread(call, b"flood")
    responses = call.responses()
    if was_read:
        assert next(responses)
    call.close()
    sender.join(10)
    assert not sender.is_alive()
    assert list(responses) == []


def test_the_lost_connection_ends_the_call(place: Place, begin: Callable[[], ClientCall]) -> None:
    call = begin()
    send_from_a_thread(call, b"1")
    responses = call.responses()
    assert next(responses) == b"1"
    place.server.quit()
    assert list(responses) == []
    assert call.code is Code.UNAVAILABLE


def test_many_calls_leave_no_thread_and_no_descriptor(place: Place) -> None:
    def serve(number: int) -> None:
        call = a_call(place.target)
        send_from_a_thread(call, b"flood" if number % 2 else b"1")
        assert next(call.responses())
        call.close()

    for number in range(20):
        serve(number)
    gc.collect()
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for number in range(200):
        serve(number)
    gc.collect()
    wait_for(lambda: threading.active_count() <= threads, what="the end of all threads")
    wait_for(lambda: len(list(Path("/proc/self/fd").iterdir())) <= files, what="closed descriptors")


def test_a_call_that_is_over_does_not_wait_for_the_collector(place: Place) -> None:
    def serve() -> "weakref.ref[ClientCall]":
        call = a_call(place.target)
        send_from_a_thread(call, b"1").join(0)
        assert next(call.responses())
        call.close()
        return weakref.ref(call)

    gc.collect()
    gc.disable()
    try:
        calls = [serve() for _ in range(5)]
        wait_for(lambda: not any(each() for each in calls), what="the end of all calls")
    finally:
        gc.enable()
