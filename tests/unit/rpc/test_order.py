"""What many threads write to one client stands in an order that HTTP/2 allows, and nothing is lost by it."""

import gc
import itertools
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from pilot_agent.rpc import Call, CallEnded, Code, Requests, Server, frames, iterating
from pilot_agent.rpc.connection import Connection
from pilot_agent.rpc.frames import frame, number, read_head
from pilot_agent.rpc.status import percent_encoded
from tests.support.waiting import wait_for
from tests.unit.rpc.test_hostile import HEADERS

BIG_BYTES = 8 << 20
WINDOW_BYTES = 64 << 20
PREFIX_BYTES = 5


class Answer:
    """Answers each request by so many bytes as it says, on a thread that the test sees begin."""

    def __init__(self, call: Call, begun: "queue.SimpleQueue[int]") -> None:
        self._call, self._begun = call, begun

    def message(self, body: bytes) -> None:
        threading.Thread(target=self._answer, args=(int(body),), daemon=True).start()

    def half_closed(self) -> None: ...

    def cancelled(self) -> None: ...

    def _answer(self, count: int) -> None:
        self._begun.put(count)
        self._call.send(b"x" * count)


def _fails(requests: Requests) -> Iterator[bytes]:
    yield from requests
    raise LookupError("a fault of the handler's")


def _explains(requests: Requests) -> Iterator[bytes]:
    raise CallEnded(Code.INTERNAL, "\N{SNOWMAN}" * 4096)
    yield from requests


def _no_threads(_: Call) -> Answer:
    raise RuntimeError("can't start new thread")


class Raw:
    """A client that reads when the test wants it, with a window that never ends."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        window = frame(frames.SETTINGS, 0, 0, frames.settings({frames.INITIAL_WINDOW_SIZE: WINDOW_BYTES}))
        more = frame(frames.WINDOW_UPDATE, 0, 0, number(WINDOW_BYTES - frames.DEFAULT_WINDOW_BYTES))
        self.socket.sendall(frames.PREFACE + window + more)
        self._reader = self.socket.makefile("rb")

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def ask(self, stream: int, count: int) -> None:
        body = b"%d" % count
        begin = frame(frames.HEADERS, frames.END_HEADERS, stream, HEADERS)
        self.socket.sendall(begin + frame(frames.DATA, 0, stream, struct.pack("!BI", 0, len(body)) + body))

    def next(self) -> tuple[int, int, int, bytes]:
        head = read_head(self._reader.read(frames.HEAD_BYTES))
        return head.kind, head.flags, head.stream, self._reader.read(head.length_bytes)


class Place:
    def __init__(self, path: str) -> None:
        self.begun: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.release = threading.Event()
        self.path = path
        self.server = Server(
            {
                "/test/Echo": lambda call: Answer(call, self.begun),
                "/test/Fails": iterating(_fails),
                "/test/Explains": iterating(_explains),
                "/test/NoThreads": _no_threads,
                "/test/Stuck": iterating(self._stuck),
            },
            name="order",
            calls_limit=100,
            message_limit_bytes=1 << 20,
        )
        self.server.listen(path)
        self.server.start()

    def _stuck(self, requests: Requests) -> Iterator[bytes]:
        requests.when_cancelled(lambda: self.told.put("cancelled"))
        self.release.wait(20)
        requests.when_cancelled(lambda: self.told.put("cancelled"))
        yield b""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(str(tmp_path / "socket"))
    yield made
    made.server.quit()


def test_nothing_follows_the_trailers_of_a_call_that_is_refused_while_it_answers(place: Place) -> None:
    client = Raw(place.path)
    streams = range(3, 43, 2)
    client.ask(1, BIG_BYTES)  # its writer waits until the client reads
    assert place.begun.get(timeout=10) == BIG_BYTES
    for stream in streams:
        client.ask(stream, 10)
        assert place.begun.get(timeout=10) == 10
    for stream in streams:  # a compressed message
        client.socket.sendall(frame(frames.DATA, 0, stream, struct.pack("!BI", 1, 0)))
    ended: set[int] = set()
    begun: set[int] = set()
    received = dict.fromkeys((1, *streams), 0)
    while ended != set(streams) or received[1] < BIG_BYTES + PREFIX_BYTES:
        kind, flags, stream, payload = client.next()
        if stream == 0 or kind == frames.RST_STREAM:
            continue
        assert stream not in ended, "a frame behind the trailers"
        if kind == frames.HEADERS:
            assert (payload[:1] == b"\x88") is (stream not in begun)
            begun.add(stream)
            ended |= {stream} if flags & frames.END_STREAM else set()
        else:
            assert stream in begun
            received[stream] += len(payload)
    left_bytes = WINDOW_BYTES - sum(received.values()) - PREFIX_BYTES
    client.ask(101, left_bytes)  # the connection's window is whole: what was not sent was given back
    while left_bytes > -PREFIX_BYTES:
        kind, _, stream, payload = client.next()
        left_bytes -= len(payload) if (kind, stream) == (frames.DATA, 101) else 0
    client.close()


def test_a_call_that_ends_between_the_grant_and_the_write_sends_trailers_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Connection.grant

    def grant(connection: Connection, call: Call, wanted_bytes: int) -> int:
        granted = real(connection, call, wanted_bytes)
        call.finish(Code.ABORTED)
        return granted

    monkeypatch.setattr(Connection, "grant", grant)
    client = Raw(place.path)
    for stream in range(1, 41, 2):  # more than all windows, if what was not sent were not given back
        client.ask(stream, BIG_BYTES)
        while (got := client.next())[2] != stream:
            pass
        assert got[:2] == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)
        assert got[3].startswith(b"\x88")
        assert client.next()[:3] == (frames.RST_STREAM, 0, stream)
    monkeypatch.undo()
    client.ask(41, WINDOW_BYTES - PREFIX_BYTES)
    received = 0
    while received < WINDOW_BYTES:
        kind, _, stream, payload = client.next()
        assert stream in {0, 41}
        received += len(payload) if kind == frames.DATA else 0
    client.close()


def test_a_handler_that_fails_ends_its_call(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: queue.SimpleQueue[object] = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", failures.put)
    with grpc.insecure_channel(f"unix:{place.path}") as channel:
        call = channel.stream_stream("/test/Fails", None, None)(iter([b"a"]), timeout=10)
        assert next(iter(call)) == b"a"
        assert call.code() is grpc.StatusCode.INTERNAL
    failures.get(timeout=10)


def test_a_client_that_asks_faster_than_is_answered_is_refused(place: Place) -> None:
    with grpc.insecure_channel(f"unix:{place.path}") as channel:
        flood = channel.stream_stream("/test/Stuck", None, None)(itertools.repeat(b"x" * 100_000), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            list(flood)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert place.told.get(timeout=10) == "cancelled", "who waits is told, in time or late"
    place.release.set()
    assert place.told.get(timeout=10) == "cancelled"


def test_a_call_that_cannot_be_begun_is_unavailable_and_others_go_on(place: Place) -> None:
    with grpc.insecure_channel(f"unix:{place.path}") as channel:
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/test/NoThreads", None, None)(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "can't start new thread" in str(caught.value.details())
        wait_for(lambda: place.server._calls == 0, what="room for other calls")


def test_no_thread_for_a_connection_costs_that_connection_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "order-connection":
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    refused = socket.socket(socket.AF_UNIX)
    refused.settimeout(10)
    refused.connect(place.path)
    assert refused.recv(1) == b""
    refused.close()
    monkeypatch.undo()
    client = Raw(place.path)
    client.ask(1, 1)
    assert place.begun.get(timeout=10) == 1
    client.close()


def test_a_long_text_fits_into_one_frame(place: Place) -> None:
    assert len(percent_encoded("\N{SNOWMAN}" * 4096)) <= 4096
    with grpc.insecure_channel(f"unix:{place.path}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test/Explains", None, None)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "\N{SNOWMAN}" * (4096 // 9)


def test_who_connects_and_says_nothing_is_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot_agent.rpc.source._GREETING_PATIENCE_S", 1)
    silent, slow = socket.socket(socket.AF_UNIX), Raw(place.path)
    silent.settimeout(10)
    silent.connect(place.path)
    assert silent.recv(1) == b""  # the end, which the server chose
    silent.close()
    slow.ask(1, 1)  # silent for as long behind its greeting
    assert place.begun.get(timeout=10) == 1
    slow.close()


def test_connections_and_calls_that_are_dropped_leave_nothing_behind(place: Place) -> None:
    threads, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for number_of in range(100):
        client = Raw(place.path)
        for stream in range(1, 21, 2):
            client.ask(stream, 100_000 if number_of % 2 else 1)
        client.close()
    wait_for(lambda: threading.active_count() <= threads, what="the end of all threads")
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
    wait_for(lambda: place.server._calls == 0, what="room for other calls")


def test_connections_and_calls_that_are_over_do_not_wait_for_the_collector(place: Place) -> None:
    gc.collect()
    gc.disable()
    try:
        before = _alive()
        for _ in range(5):
            client = Raw(place.path)
            client.ask(1, 1)
            client.ask(3, 100_000)
            client.close()
            assert {place.begun.get(timeout=10) for _ in range(2)} == {1, 100_000}
        wait_for(lambda: _alive() <= before, what="the end of all connections and calls")
    finally:
        gc.enable()


def _alive() -> int:
    return sum(isinstance(each, Call | Connection | Answer) for each in gc.get_objects())
