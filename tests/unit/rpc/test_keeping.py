"""Connections that go from one server to the next: clients notice nothing, wherever they were."""

import itertools
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from pilot_agent.rpc import Call, Server, frames, headers, iterating, kept
from pilot_agent.rpc.messages import prefix

MIB = 1 << 20


class Counting:
    """Answers each request with its number and itself; number and requests go to the successor."""

    def __init__(self, call: Call, state: bytes = b"0") -> None:
        self._call = call
        number, *waiting = state.split(b",")
        self._number, self._waiting = int(number), deque[bytes | None](waiting)
        self._come = threading.Condition()
        threading.Thread(target=self._answer, name="keeping-count", daemon=True).start()

    def message(self, body: bytes) -> None:
        self._put(body)

    def half_closed(self) -> None:
        self._put(None)

    def cancelled(self) -> None:
        self._put(None)

    def keep(self) -> bytes | None:
        return b",".join([b"%d" % self._number, *(body for body in self._waiting if body is not None)])

    def _put(self, body: bytes | None) -> None:
        with self._come:
            self._waiting.append(body)
            self._come.notify()

    def _answer(self) -> None:
        while True:
            with self._come:
                self._come.wait_for(lambda: self._waiting)
                body = self._waiting[0]
            if body is None:
                break
            with self._call.turn:
                self._number += 1
                self._waiting.popleft()
                self._call.send(b"%d:%s" % (self._number, body))
        self._call.finish()


class Servers:
    """One server after another on the same socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.now = self._made()
        self.now.listen(path)
        self.now.start()

    def _made(self) -> Server:
        return Server(
            {"/test/Count": Counting, "/test/Fleeting": iterating(iter)},
            name="keeping",
            calls_limit=100,
            message_limit_bytes=16 * MIB,
            resumptions={"/test/Count": Counting},
        )

    def follow(self, patience_s: float = 5.0) -> int:
        """Let the next server take over; return how many connections it goes on with."""
        inherited = [os.dup(descriptor) for descriptor in self.now.heirlooms()]
        body, descriptors = self.now.keep(patience_s)
        self.now = self._made()
        self.now.listen(self.path, tuple(inherited))
        taken = self.now.resume(body, descriptors)
        self.now.start()
        return taken


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(str(tmp_path / "socket"))
    yield made
    made.now.quit()


def channel_to(servers: Servers) -> grpc.Channel:
    options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    return grpc.insecure_channel(f"unix:{servers.path}", options)


class Stream:
    """One call of gRPC's own client."""

    def __init__(self, channel: grpc.Channel, method: str = "Count") -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(f"/test/{method}", None, None)(
            iter(self._requests.get, None), metadata=(("x-name", method),), timeout=30
        )

    def ask(self, body: bytes) -> bytes:
        self._requests.put(body)
        return bytes(next(iter(self._call)))

    def end(self) -> grpc.StatusCode:
        self._requests.put(None)
        assert list(self._call) == []
        code: grpc.StatusCode = self._call.code()
        return code


def test_streams_go_on_with_the_next_server_and_the_one_after(servers: Servers) -> None:
    with channel_to(servers) as channel:
        first, second = Stream(channel), Stream(channel)
        assert first.ask(b"a") == b"1:a"
        for number in range(2, 6):
            assert servers.follow() == 1
            assert first.ask(b"b") == b"%d:b" % number
        assert second.ask(b"c") == b"1:c"
        third = Stream(channel)  # its headers refer to the table that the first server filled
        assert third.ask(b"d") == b"1:d"
        assert {each.end() for each in (first, second, third)} == {grpc.StatusCode.OK}


def test_windows_go_along(servers: Servers) -> None:
    with channel_to(servers) as channel:
        stream = Stream(channel)
        body = os.urandom(3 * MIB)
        for number in range(1, 7):  # 18 MiB each way; a window that is not given back ends it
            assert stream.ask(body) == b"%d:%s" % (number, body)
            assert servers.follow() == 1
        assert stream.end() is grpc.StatusCode.OK


def test_what_is_asked_while_nobody_serves_is_answered(servers: Servers) -> None:
    with channel_to(servers) as channel:
        stream = Stream(channel)
        assert stream.ask(b"a") == b"1:a"
        asked = threading.Event()
        answers: list[bytes] = []

        def ask() -> None:
            for number in itertools.count():
                answers.append(stream.ask(b"%d" % number))
                if asked.is_set():
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        assert [servers.follow() for _ in range(30)] == [1] * 30
        asked.set()
        asking.join(30)
        assert answers == [b"%d:%d" % (number + 2, number) for number in range(len(answers))]


def test_a_call_that_cannot_go_on_ends_with_its_connection_alone(servers: Servers) -> None:
    with channel_to(servers) as lasting, channel_to(servers) as fleeting:
        stays, goes = Stream(lasting), Stream(fleeting, "Fleeting")
        assert stays.ask(b"a") == b"1:a"
        assert goes.ask(b"b") == b"b"
        assert servers.follow() == 1
        assert stays.ask(b"a") == b"2:a"


def test_nothing_goes_on_when_an_answer_is_stuck(servers: Servers) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(servers.path)
        greet(client)
        client.sendall(opened(1) + data(1, b"x" * 10_000) * 20)
        read_whole_window(client)
        assert servers.follow(patience_s=0.2) == 0


@pytest.mark.parametrize("cut", [1, 8, 9, 12, 40, -1])
def test_half_a_frame_goes_along(servers: Servers, cut: int) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(servers.path)
        greet(client)
        client.sendall(opened(1) + data(1, b"a"))
        assert read_message(client) == b"1:a"
        whole = data(1, b"b" * 50)
        client.sendall(whole[:cut])
        assert servers.follow() == 1
        client.sendall(whole[cut:])
        assert read_message(client) == b"2:" + b"b" * 50


def test_half_a_header_block_and_half_a_message_go_along(servers: Servers) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(servers.path)
        greet(client)
        block = headers.call("/test/Count", authority="a", is_secure=False, metadata=())
        client.sendall(frames.frame(frames.HEADERS, 0, 1, block[:10]))
        assert servers.follow() == 1
        client.sendall(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[10:]))
        message = prefix(3) + b"abc"
        for at in range(len(message)):
            client.sendall(frames.frame(frames.DATA, 0, 1, message[at : at + 1]))
            assert servers.follow() == 1
        assert read_message(client) == b"1:abc"


def test_a_client_that_has_not_greeted_yet_is_let_go(servers: Servers) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(servers.path)
        client.sendall(frames.PREFACE[:5])
        with channel_to(servers) as channel:
            Stream(channel).ask(b"a")  # behind the other in the queue: that one was accepted
            assert servers.follow() == 1


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", kept.encode(())[:-1] + b"\x07"], ids=["empty", "no state", "another format"]
)
def test_what_another_version_has_kept_is_let_go(servers: Servers, body: bytes) -> None:
    one, other = socket.socketpair()
    with one:
        assert servers.now.resume(body, [other.detach()]) == 0
        one.settimeout(10)
        assert one.recv(1) == b""


def greet(client: socket.socket) -> None:
    ping = frames.frame(frames.PING, 0, 0, b"12345678")
    client.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0) + ping)
    client.settimeout(10)
    while (head := frames.read_head(exactly(client, frames.HEAD_BYTES))).kind != frames.PING:
        exactly(client, head.length_bytes)
    exactly(client, head.length_bytes)


def opened(stream: int) -> bytes:
    block = headers.call("/test/Count", authority="a", is_secure=False, metadata=())
    return frames.headers(stream, block)


def data(stream: int, body: bytes) -> bytes:
    return frames.frame(frames.DATA, 0, stream, prefix(len(body)) + body)


def read_whole_window(client: socket.socket) -> None:
    """Read all that the client lets the server send; the server is within its next answer then."""
    left = frames.DEFAULT_WINDOW_BYTES
    while left:
        head = frames.read_head(exactly(client, frames.HEAD_BYTES))
        exactly(client, head.length_bytes)
        left -= head.length_bytes if head.kind == frames.DATA else 0


def read_message(client: socket.socket) -> bytes:
    """Return the next message, which is one frame; others are passed over."""
    while True:
        head = frames.read_head(exactly(client, frames.HEAD_BYTES))
        payload = exactly(client, head.length_bytes)
        if head.kind == frames.DATA:
            return payload[5:]


def exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        assert more, "the connection has ended"
        data += more
    return data
