"""The client beside a server whose every byte the test writes: statuses, faults, windows, pings."""

import base64
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import hpack
import pytest

from pilot_agent.rpc import Code, frames
from pilot_agent.rpc.client import ClientCall, Keepalive, Target
from pilot_agent.rpc.messages import prefix

MIB = 1 << 20
GREETING = frames.frame(frames.SETTINGS, 0, 0)
OK_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


def block(*pairs: tuple[str, str]) -> bytes:
    encoded: bytes = hpack.Encoder().encode(pairs)
    return encoded


def opening(*pairs: tuple[str, str], ends: bool = False, stream: int = 1) -> bytes:
    flags = frames.END_HEADERS | (frames.END_STREAM if ends else 0)
    return frames.frame(frames.HEADERS, flags, stream, block(*pairs))


def data(payload: bytes, *, ends: bool = False, stream: int = 1) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ends else 0, stream, payload)


def message(body: bytes) -> bytes:
    whole = prefix(len(body)) + body
    return b"".join(data(whole[at : at + 16_384]) for at in range(0, len(whole), 16_384))


ANSWER = GREETING + opening(*OK_HEADERS)
OK_TRAILERS = opening(("grpc-status", "0"), ends=True)


class RawServer:
    """Accepts one connection and does with it what the script says; keeps what it received."""

    def __init__(self, script: Callable[["RawServer"], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received = b""
        self.connection: socket.socket | None = None
        self._script = script
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def target(self) -> Target:
        return Target(address=f"127.0.0.1:{self.listener.getsockname()[1]}")

    def _run(self) -> None:
        with suppress(OSError):
            self.connection, _ = self.listener.accept()
            self._script(self)

    def send(self, bytes_: bytes) -> None:
        assert self.connection is not None
        self.connection.sendall(bytes_)

    def frames(self) -> list[tuple[frames.Head, bytes]]:
        rest = self.received.removeprefix(frames.PREFACE)
        found, at = [], 0
        while at + 9 <= len(rest):
            head = frames.read_head(rest[at : at + 9])
            found.append((head, rest[at + 9 : at + 9 + head.length_bytes]))
            at += 9 + head.length_bytes
        return found

    def read(self) -> bool:
        """Read some more; return whether there was any."""
        assert self.connection is not None
        more = self.connection.recv(65_536)
        self.received += more
        return bool(more)

    def read_until(self, is_there: Callable[[], object]) -> None:
        while not is_there() and self.read():
            pass

    def read_all(self) -> None:
        while self.read():
            pass

    def close(self) -> None:
        self.listener.close()
        if self.connection is not None:
            self.connection.close()
        self.thread.join(10)


Serve = Callable[[Callable[[RawServer], None]], RawServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[RawServer] = []

    def make(script: Callable[[RawServer], None]) -> RawServer:
        made.append(RawServer(script))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answer_with(*pieces: bytes) -> Callable[[RawServer], None]:
    """Send these, then read until the client is gone."""

    def script(server: RawServer) -> None:
        for piece in pieces:
            server.send(piece)
        server.read_all()

    return script


def outcome(server: RawServer, limit_bytes: int = MIB) -> tuple[list[bytes], Code, str]:
    call = ClientCall(server.target, "/a.B/C", limit_bytes=limit_bytes)
    found = list(call.responses())
    call.close()
    return found, call.code, call.details


def test_what_opens_a_call_says_all_that_grpc_wants(serve: Serve) -> None:
    server = serve(answer_with(ANSWER + OK_TRAILERS))
    metadata = (
        ("clusterid", "K"),
        ("authorization", "Bearer t"),
        ("x-bin", b"\xff\0"),
        ("x-long", "v" * 40_000),
    )
    call = ClientCall(server.target, "/a.B/C", metadata, limit_bytes=MIB)
    assert list(call.responses()) == []
    call.close()
    server.thread.join(10)
    assert server.received.startswith(frames.PREFACE)
    whole = b""
    for head, payload in server.frames():
        if head.kind in (frames.HEADERS, frames.CONTINUATION):
            assert head.length_bytes <= frames.DEFAULT_FRAME_BYTES
            whole += payload
    decoded = hpack.Decoder(max_header_list_size=1 << 20).decode(whole)
    pairs = {str(name): str(value) for name, value in decoded}
    assert (pairs[":method"], pairs[":scheme"]) == ("POST", "http")
    assert (pairs[":path"], pairs[":authority"]) == ("/a.B/C", server.target.address)
    assert (pairs["te"], pairs["content-type"]) == ("trailers", "application/grpc")
    assert (pairs["clusterid"], pairs["authorization"]) == ("K", "Bearer t")
    assert base64.b64decode(pairs["x-bin"] + "==") == b"\xff\0"
    assert pairs["x-long"] == "v" * 40_000


@pytest.mark.parametrize(
    ("answer", "code", "details"),
    [
        (ANSWER + OK_TRAILERS, Code.OK, ""),
        (GREETING + opening(*OK_HEADERS, ("grpc-status", "5"), ends=True), Code.NOT_FOUND, ""),
        (
            ANSWER + opening(("grpc-status", "7"), ("grpc-message", "n%C3%B6 %"), ends=True),
            Code.PERMISSION_DENIED,
            "nö %",
        ),
        (ANSWER + opening(("grpc-status", "99"), ends=True), Code.UNKNOWN, ""),
        (
            ANSWER + opening(("x", "y"), ends=True),
            Code.INTERNAL,
            "server closed the stream without a grpc-status",
        ),
        (ANSWER + data(b"", ends=True), Code.INTERNAL, "server closed the stream without sending trailers"),
        (
            ANSWER + data(prefix(10) + b"abc") + OK_TRAILERS,
            Code.INTERNAL,
            "the response's last message is cut off",
        ),
        (
            GREETING + opening((":status", "503"), ("content-type", "text/html")),
            Code.UNAVAILABLE,
            'unexpected HTTP status code received from server: 503; content-type "text/html" is not gRPC',
        ),
        (
            GREETING + opening((":status", "200"), ("content-type", "text/html"), ends=True),
            Code.UNKNOWN,
            'unexpected HTTP status code received from server: 200; content-type "text/html" is not gRPC',
        ),
        (
            ANSWER + data(b"\1" + prefix(0)[1:]),
            Code.UNIMPLEMENTED,
            "compressed messages are not understood: use identity",
        ),
        (
            ANSWER + data(prefix(MIB + 1)),
            Code.RESOURCE_EXHAUSTED,
            f"grpc: received message larger than max ({MIB + 1} vs. {MIB})",
        ),
        (
            ANSWER + frames.frame(frames.RST_STREAM, 0, 1, frames.number(frames.REFUSED_STREAM)),
            Code.UNAVAILABLE,
            "stream terminated by RST_STREAM with error code: REFUSED_STREAM",
        ),
        (
            ANSWER + frames.frame(frames.RST_STREAM, 0, 1, frames.number(frames.NO_ERROR)),
            Code.INTERNAL,
            "stream terminated by RST_STREAM with error code: NO_ERROR",
        ),
        (
            ANSWER + frames.frame(frames.GOAWAY, 0, 0, frames.number(0) + frames.number(frames.NO_ERROR)),
            Code.UNAVAILABLE,
            'the connection is draining: received prior goaway: code: NO_ERROR, debug data: ""',
        ),
    ],
)
def test_every_way_to_end_a_call_has_its_status(
    serve: Serve, answer: bytes, code: Code, details: str
) -> None:
    assert outcome(serve(answer_with(answer))) == ([], code, details)


def test_a_call_outlives_a_goaway_that_admits_it_until_the_server_closes(serve: Serve) -> None:
    goaway = frames.frame(frames.GOAWAY, 0, 0, frames.number(1) + frames.number(0) + b"max_age")

    def script(server: RawServer) -> None:
        server.send(ANSWER + goaway + message(b"one more"))
        server.read_until(lambda: any(head.kind == frames.SETTINGS for head, _ in server.frames()))
        assert server.connection is not None
        server.connection.shutdown(socket.SHUT_WR)

    found, code, details = outcome(serve(script))
    assert (found, code) == ([b"one more"], Code.UNAVAILABLE)
    assert details == (
        'closing transport due to: connection error: desc = "error reading from server: EOF", '
        'received prior goaway: code: NO_ERROR, debug data: "max_age"'
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "frame of"),
        (b"\x15\x03\x03\x00\x02\x02\x46" + b"\0" * 9, "frame of"),
        (frames.frame(frames.PING, 0, 0, b"\0" * 8), "the first frame is no SETTINGS"),
        (GREETING + frames.head(20_000, frames.DATA, 0, 1) + b"\0" * 20_000, "frame of 20000 bytes"),
        (GREETING + data(b"x", stream=3), "a frame for the stream 3"),
        (GREETING + frames.frame(frames.PUSH_PROMISE, 4, 1, frames.number(2)), "a push that was not allowed"),
        (GREETING + frames.frame(frames.CONTINUATION, 4, 1, b""), "a CONTINUATION of nothing"),
        (GREETING + frames.frame(frames.HEADERS, 0, 1, b"") + GREETING, "a header block is interrupted"),
        (GREETING + frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff"), "malformed headers"),
        (GREETING + frames.frame(frames.WINDOW_UPDATE, 0, 1, frames.number(0)), "WINDOW_UPDATE of nothing"),
        (GREETING + 2 * frames.frame(frames.WINDOW_UPDATE, 0, 1, frames.number(0x7FFFFFFF)), "2 GiB"),
        (GREETING + frames.frame(frames.SETTINGS, 0, 0, b"123"), "SETTINGS of 3 bytes"),
        (ANSWER + frames.frame(frames.DATA, frames.PADDED, 1, b"\x09abc"), "padding longer"),
        (
            GREETING + frames.frame(frames.HEADERS, 0, 1, b"") + 9 * frames.frame(9, 0, 1, b"\0" * 16_000),
            "headers of",
        ),
    ],
)
def test_a_server_that_breaks_the_protocol_loses_the_call_with_a_reason(
    serve: Serve, answer: bytes, why: str
) -> None:
    found, code, details = outcome(serve(answer_with(answer)))
    assert (found, code) == ([], Code.UNAVAILABLE)
    assert why in details


def test_random_bytes_end_the_call_and_nothing_else(serve: Serve) -> None:
    for _ in range(30):
        found, code, _ = outcome(serve(answer_with(GREETING + os.urandom(2000) + b"\xff" * 16)))
        assert found == []
        assert code is not Code.OK


@pytest.mark.parametrize("piece_bytes", [1, 7, 16_384])
def test_messages_are_put_together_from_any_pieces(serve: Serve, piece_bytes: int) -> None:
    bodies = [b"", b"a", os.urandom(5_000), b"", os.urandom(70_000 if piece_bytes > 1 else 100)]
    stream = b"".join(prefix(len(body)) + body for body in bodies)
    pieces = b"".join(data(stream[at : at + piece_bytes]) for at in range(0, len(stream), piece_bytes))
    assert outcome(serve(answer_with(ANSWER + pieces + OK_TRAILERS)))[:2] == (bodies, Code.OK)


def test_padding_unknown_frames_informational_headers_and_settings_are_taken(serve: Serve) -> None:
    padded = frames.frame(frames.DATA, frames.PADDED, 1, b"\x03" + prefix(2) + b"hi" + b"\0\0\0")
    unknown = frames.frame(0x42, 0, 0, b"whatever")
    early = opening((":status", "103"))
    answer = GREETING + early + opening(*OK_HEADERS) + unknown + padded + GREETING + OK_TRAILERS
    server = serve(answer_with(answer))
    assert outcome(server) == ([b"hi"], Code.OK, "")


def test_pings_are_answered_while_the_reader_is_busy_with_a_message(serve: Serve) -> None:
    answered = threading.Event()

    def script(server: RawServer) -> None:
        server.send(ANSWER + message(b"first"))
        server.read_until(lambda: any(head.kind == frames.SETTINGS for head, _ in server.frames()))
        server.send(frames.frame(frames.PING, 0, 0, b"are you?"))
        server.read_until(lambda: (frames.PING, b"are you?") in [(h.kind, p) for h, p in server.frames()])
        answered.set()
        server.send(message(b"second") + OK_TRAILERS)
        server.read_all()

    server = serve(script)
    call = ClientCall(server.target, "/a.B/C", limit_bytes=MIB)
    responses = call.responses()
    assert next(responses) == b"first"
    busy, done = os.pipe()
    threading.Thread(target=lambda: (answered.wait(10), os.write(done, b"x")), daemon=True).start()
    call.read_beside(busy)
    assert answered.is_set()
    assert list(responses) == [b"second"]
    assert call.code is Code.OK
    call.close()
    os.close(busy)
    os.close(done)


def test_a_server_cannot_send_more_than_the_window_while_nothing_is_fetched(serve: Serve) -> None:
    """The messages that wait are bounded by the window, though the connection is served."""
    sent = 0

    def script(server: RawServer) -> None:
        nonlocal sent
        server.send(ANSWER)
        one = message(b"m" * 60_000)
        granted, seen = frames.DEFAULT_WINDOW_BYTES, 0
        assert server.connection is not None
        while True:
            updates = [payload for head, payload in server.frames() if (head.kind, head.stream) == (8, 0)]
            granted = frames.DEFAULT_WINDOW_BYTES + sum(frames.read_number(each) for each in updates)
            if sent + len(one) <= granted:
                server.send(one)
                sent += 60_000 + 5
            elif not server.read():
                return
            seen += 1

    server = serve(script)
    call = ClientCall(server.target, "/a.B/C", limit_bytes=MIB)
    responses = call.responses()
    assert next(responses)
    busy, done = os.pipe()
    timer = threading.Timer(0.5, os.write, (done, b"x"))
    timer.start()
    call.read_beside(busy)
    assert sent <= 2 * MIB
    before = sent
    for _ in range(100):
        assert len(next(responses)) == 60_000
    assert sent > before
    call.close()
    timer.join()
    os.close(busy)
    os.close(done)


def test_a_request_waits_for_the_servers_window_and_frames_are_no_larger_than_it_wants(serve: Serve) -> None:
    def script(server: RawServer) -> None:
        server.send(frames.frame(frames.SETTINGS, 0, 0, frames.settings({frames.INITIAL_WINDOW_SIZE: 10})))
        server.read_until(lambda: sum(h.length_bytes for h, _ in server.frames() if h.kind == 0) >= 10)
        server.send(frames.frame(frames.WINDOW_UPDATE, 0, 1, frames.number(MIB)))
        server.send(frames.frame(frames.WINDOW_UPDATE, 0, 0, frames.number(MIB)))
        server.read_until(lambda: sum(h.length_bytes for h, _ in server.frames() if h.kind == 0) >= 100_005)
        server.send(opening(*OK_HEADERS, ("grpc-status", "0"), ends=True))
        server.read_all()

    server = serve(script)
    call = ClientCall(server.target, "/a.B/C", limit_bytes=MIB)
    sender = threading.Thread(target=call.send, args=(b"r" * 100_000,), daemon=True)
    sender.start()
    assert list(call.responses()) == []
    assert call.code is Code.OK
    call.close()
    server.thread.join(10)
    received = b"".join(payload for head, payload in server.frames() if head.kind == frames.DATA)
    assert received == prefix(100_000) + b"r" * 100_000


def test_a_silent_server_is_asked_and_given_up(serve: Serve) -> None:
    server = serve(answer_with(ANSWER))
    call = ClientCall(
        server.target, "/a.B/C", limit_bytes=MIB, keepalive=Keepalive(interval_s=0.1, timeout_s=0.2)
    )
    began_s = time.monotonic()
    assert list(call.responses()) == []
    assert time.monotonic() - began_s >= 0.25
    assert (call.code, call.details) == (
        Code.UNAVAILABLE,
        "keepalive ping failed to receive ACK within timeout",
    )
    call.close()
    server.thread.join(10)
    assert any(head.kind == frames.PING for head, _ in server.frames())


def asked(server: RawServer, times: int) -> bool:
    return len([head for head, _ in server.frames() if head.kind == frames.PING]) >= times


def test_a_server_that_answers_pings_is_not_given_up(serve: Serve) -> None:
    def script(server: RawServer) -> None:
        server.send(ANSWER)
        for count in range(1, 6):
            server.read_until(partial(asked, server, count))
            server.send(frames.frame(frames.PING, frames.ACK, 0, b"\0" * 8))
        server.send(OK_TRAILERS)
        server.read_all()

    keepalive = Keepalive(interval_s=0.05, timeout_s=5)
    call = ClientCall(serve(script).target, "/a.B/C", limit_bytes=MIB, keepalive=keepalive)
    assert list(call.responses()) == []
    assert call.code is Code.OK
    call.close()


def test_a_cancelled_call_says_so_to_the_server(serve: Serve) -> None:
    server = serve(answer_with(ANSWER + message(b"1")))
    call = ClientCall(server.target, "/a.B/C", limit_bytes=MIB)
    responses = call.responses()
    assert next(responses) == b"1"
    call.close()
    server.thread.join(10)
    resets = [payload for head, payload in server.frames() if head.kind == frames.RST_STREAM]
    assert resets == [frames.number(frames.CANCEL)]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "missing port in address"),
        ("127.0.0.1:http", "missing port in address"),
        ("no-such-host.invalid:1", "lookup no-such-host.invalid: no such host"),
        ("unix:/nowhere/socket", "dial unix /nowhere/socket: connect: no such file or directory"),
    ],
)
def test_an_address_that_leads_nowhere_is_named(address: str, why: str) -> None:
    call = ClientCall(Target(address=address), "/a.B/C", limit_bytes=MIB)
    assert list(call.responses()) == []
    assert call.code is Code.UNAVAILABLE
    assert why in call.details
    call.close()


def test_the_proxy_is_asked_to_connect(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(server: RawServer) -> None:
        server.read_until(lambda: b"\r\n\r\n" in server.received)
        server.send(b"HTTP/1.1 200 Connection established\r\n\r\n" + ANSWER + OK_TRAILERS)
        server.read_all()

    server = serve(script)
    monkeypatch.setenv("HTTPS_PROXY", f"http://us%65r:pass@{server.target.address}")
    call = ClientCall(Target(address="istiod.example:15012"), "/a.B/C", limit_bytes=MIB)
    assert list(call.responses()) == []
    assert (call.code, call.details) == (Code.OK, "")
    call.close()
    server.thread.join(10)
    first, *lines = server.received.split(b"\r\n\r\n")[0].decode().split("\r\n")
    assert first == "CONNECT istiod.example:15012 HTTP/1.1"
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:pass').decode()}" in lines


def test_a_proxy_that_refuses_is_said(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(answer_with(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"))
    monkeypatch.setenv("https_proxy", server.target.address)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    call = ClientCall(Target(address="istiod.example:15012"), "/a.B/C", limit_bytes=MIB)
    assert list(call.responses()) == []
    assert "407 Proxy Authentication Required" in call.details
    call.close()
