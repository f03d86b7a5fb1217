"""Clients that break the protocol: their connection ends, and nobody else notices."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilot_agent.rpc import Call, Server, frames
from pilot_agent.rpc.frames import frame, number, read_head
from tests.support.waiting import wait_for

OPENING = frames.PREFACE + frame(frames.SETTINGS, 0, 0)
HEADERS = hpack.Encoder().encode(
    [(":method", "POST"), (":scheme", "http"), (":path", "/test/Echo"), ("content-type", "application/grpc")],
    huffman=False,
)
BEGIN = frame(frames.HEADERS, frames.END_HEADERS, 1, HEADERS)


class Echo:
    def __init__(self, call: Call) -> None:
        self._call = call

    def message(self, body: bytes) -> None:
        self._call.send(body)

    def half_closed(self) -> None:
        self._call.finish()

    def cancelled(self) -> None: ...


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = str(tmp_path_factory.mktemp("rpc") / "socket")
    server = Server({"/test/Echo": Echo}, name="hostile", calls_limit=50, message_limit_bytes=1 << 20)
    server.listen(place)
    server.start()
    yield place
    server.quit()


def converse(path: str, data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Send all and half-close; return the frames (kind, flags, stream, payload) that came until the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        got = b""
        try:
            while more := client.recv(65536):
                got += more
        except ConnectionResetError:
            pass
    found = []
    while got:
        head = read_head(got[:9])
        found.append((head.kind, head.flags, head.stream, got[9 : 9 + head.length_bytes]))
        got = got[9 + head.length_bytes :]
    return found


def goaway_code(path: str, data: bytes) -> int | None:
    codes = [
        struct.unpack("!II", payload[:8])[1]
        for kind, _, _, payload in converse(path, data)
        if kind == frames.GOAWAY
    ]
    return codes[0] if codes else None


def is_alive(path: str) -> bool:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        return bool(channel.unary_unary("/test/Echo", None, None)(b"x", timeout=10) == b"x")


P, F, S = frames.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR, frames.FLOW_CONTROL_ERROR
CALM = frames.ENHANCE_YOUR_CALM


def case(name: str, code: int, *parts: bytes) -> object:
    return pytest.param(b"".join(parts), code, id=name)


def after_opening(  # noqa: PLR0917  # a table below
    name: str, code: int, kind: int, flags: int, stream: int, payload: bytes = b""
) -> object:
    return case(name, code, OPENING, frame(kind, flags, stream, payload))


FRAGMENT = frame(frames.CONTINUATION, 0, 1, b"\0" * 16_384)
BOMB = hpack.Encoder().encode([("a" * 30, "b" * 4000)]) + b"\xbe" * 12_000
LARGEST = (1 << 31) - 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        case("HTTP/1.1", P, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n    "),
        case("no SETTINGS first", P, frames.PREFACE, frame(frames.PING, 0, 0, b"12345678")),
        case("frame too large", F, OPENING, frames.head(16_385, frames.DATA, 0, 1)),
        after_opening("data on an idle stream", P, frames.DATA, 0, 1, b"x"),
        after_opening("data on stream 0", P, frames.DATA, 0, 0, b"x"),
        after_opening("even stream", P, frames.HEADERS, 4, 2, HEADERS),
        after_opening("headers on stream 0", P, frames.HEADERS, 4, 0, HEADERS),
        case(
            "interrupted",
            P,
            OPENING,
            frame(frames.HEADERS, 0, 1, HEADERS),
            frame(frames.PING, 0, 0, b"8" * 8),
        ),
        after_opening("continuation of nothing", P, frames.CONTINUATION, 4, 1, HEADERS),
        after_opening("bad header block", frames.COMPRESSION_ERROR, frames.HEADERS, 4, 1, b"\xff" * 5),
        after_opening("push from a client", P, frames.PUSH_PROMISE, 4, 1, b"\0\0\0\2"),
        after_opening("short ping", F, frames.PING, 0, 0, b"1234567"),
        after_opening("ping on a stream", P, frames.PING, 0, 1, b"12345678"),
        after_opening("settings of five bytes", F, frames.SETTINGS, 0, 0, b"12345"),
        after_opening("acknowledged with a payload", F, frames.SETTINGS, 1, 0, b"123456"),
        after_opening("settings on a stream", P, frames.SETTINGS, 0, 1),
        after_opening("window too large", S, frames.SETTINGS, 0, 0, frames.settings({4: 1 << 31})),
        after_opening("frames too small", P, frames.SETTINGS, 0, 0, frames.settings({5: 100})),
        after_opening("no more window", P, frames.WINDOW_UPDATE, 0, 0, number(0)),
        after_opening("window overflows", S, frames.WINDOW_UPDATE, 0, 0, number(LARGEST)),
        after_opening("window of an idle stream", P, frames.WINDOW_UPDATE, 0, 1, number(1)),
        after_opening("short window update", F, frames.WINDOW_UPDATE, 0, 0, b"123"),
        after_opening("reset of an idle stream", P, frames.RST_STREAM, 0, 1, number(8)),
        after_opening("reset of stream 0", P, frames.RST_STREAM, 0, 0, number(8)),
        case("short reset", F, OPENING, BEGIN, frame(frames.RST_STREAM, 0, 1, b"1")),
        after_opening("short priority", F, frames.PRIORITY, 0, 1, b"1"),
        case("too much padding", P, OPENING, BEGIN, frame(frames.DATA, frames.PADDED, 1, b"\5abc")),
        case("endless headers", CALM, OPENING, frame(frames.HEADERS, 0, 1, HEADERS), FRAGMENT * 5),
        case("header bomb", CALM, OPENING, frame(frames.HEADERS, 4, 1, HEADERS + BOMB)),
    ],
)
def test_a_broken_protocol_ends_the_connection_with_its_reason(path: str, data: bytes, code: int) -> None:
    assert goaway_code(path, data) == code
    assert is_alive(path)


def test_cancelling_again_and_again_is_stopped(path: str) -> None:
    def call(stream: int) -> bytes:
        begun = frame(frames.HEADERS, frames.END_HEADERS, stream, HEADERS)
        return begun + frame(frames.RST_STREAM, 0, stream, number(frames.CANCEL))

    data = OPENING + b"".join(call(stream) for stream in range(1, 4001, 2))
    assert goaway_code(path, data) == frames.ENHANCE_YOUR_CALM
    assert is_alive(path)


def test_padding_priority_and_continuation_are_understood(path: str) -> None:
    flags = frames.PADDED | frames.HAS_PRIORITY
    message = struct.pack("!BI", 0, 3) + b"abc"
    data = (
        OPENING
        + frame(frames.HEADERS, flags, 1, b"\3" + b"\0\0\0\0\x10" + HEADERS[:20] + b"\0\0\0")
        + frame(frames.CONTINUATION, frames.END_HEADERS, 1, HEADERS[20:])
        + frame(0xBB, 0xFF, 77, b"unknown frames are ignored")
        + frame(frames.PRIORITY, 0, 1, b"\0\0\0\0\x10")
        + frame(frames.DATA, frames.PADDED, 1, b"\2" + message[:4] + b"\0\0")
        + frame(frames.DATA, 0, 1, message[4:])
        + frame(frames.PING, 0, 0, b"12345678")
        + frame(frames.DATA, frames.END_STREAM, 1)
    )
    got = converse(path, data)
    assert [payload for kind, _, stream, payload in got if (kind, stream) == (frames.DATA, 1)] == [message]
    assert (frames.PING, frames.ACK, 0, b"12345678") in got
    assert (frames.HEADERS, frames.END_STREAM | frames.END_HEADERS, 1) in [each[:3] for each in got]
    assert frames.GOAWAY not in [each[0] for each in got]


@pytest.mark.parametrize(
    "headers",
    [[(":method", "GET")], [(":method", "POST"), ("content-type", "text/plain")]],
    ids=["GET", "text"],
)
def test_what_is_no_grpc_is_answered_with_415(path: str, headers: list[tuple[str, str]]) -> None:
    block = hpack.Encoder().encode([(":scheme", "http"), (":path", "/test/Echo"), *headers])
    got = converse(path, OPENING + frame(frames.HEADERS, 5, 1, block))
    (answer,) = [payload for kind, _, stream, payload in got if (kind, stream) == (frames.HEADERS, 1)]
    (status,) = hpack.Decoder().decode(answer)
    assert status[1] in {"415", b"415"}


REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test/Echo"),
    ("content-type", "application/grpc"),
]


def answers(path: str, *pairs: list[tuple[str, str]], data: bytes = b"") -> list[tuple[int, int, int, bytes]]:
    """Send header blocks for stream 1, the last ending it; return what stream 1 and the connection got."""
    blocks = [hpack.Encoder().encode(each) for each in pairs]
    sent = b"".join(
        frame(frames.HEADERS, 4 if at < len(blocks) - 1 else 5, 1, b) for at, b in enumerate(blocks)
    )
    return [each for each in converse(path, OPENING + data + sent) if each[0] in {frames.HEADERS, 3, 7}]


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([*REQUEST, ("X-Name", "a")], id="upper case"),
        pytest.param([*REQUEST, ("a b", "a")], id="a space in a name"),
        pytest.param([*REQUEST, ("", "a")], id="no name"),
        pytest.param([*REQUEST, ("a", "b\r\nc: d")], id="a line break in a value"),
        pytest.param([(":other", "a"), *REQUEST], id="an unknown pseudo-header"),
        pytest.param([(":status", "200"), *REQUEST], id="a pseudo-header of responses"),
        pytest.param([*REQUEST, (":authority", "a")], id="a pseudo-header behind fields"),
        pytest.param([REQUEST[0], *REQUEST], id="two methods"),
        pytest.param([REQUEST[2], *REQUEST], id="two paths"),
        pytest.param([*REQUEST[:2], (":path", ""), REQUEST[3]], id="an empty path"),
        pytest.param(REQUEST[1:], id="no method"),
        pytest.param([*REQUEST, ("connection", "close")], id="a header of HTTP/1.1"),
        pytest.param([*REQUEST, ("transfer-encoding", "chunked")], id="chunked"),
        pytest.param([*REQUEST, ("te", "gzip")], id="te"),
    ],
)
def test_a_malformed_request_is_reset_and_the_connection_goes_on(
    path: str, pairs: list[tuple[str, str]]
) -> None:
    assert answers(path, pairs) == [(frames.RST_STREAM, 0, 1, number(P))]


def test_a_pseudo_header_among_trailers_resets_the_call(path: str) -> None:
    assert answers(path, REQUEST, [(":authority", "a")]) == [(frames.RST_STREAM, 0, 1, number(P))]


def test_trailers_end_a_request(path: str) -> None:
    (end,) = answers(path, [*REQUEST, ("te", "trailers")], [("a", "b")])
    assert end[:3] == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1)


def test_a_stream_cannot_be_used_again(path: str) -> None:
    block = hpack.Encoder().encode(REQUEST, huffman=False)
    twice = frame(frames.HEADERS, 5, 3, block) + frame(frames.HEADERS, 5, 1, HEADERS)
    assert goaway_code(path, OPENING + twice) == P


def test_empty_continuations_have_an_end(path: str) -> None:
    endless = frame(frames.CONTINUATION, 0, 1) * 10_000
    assert goaway_code(path, OPENING + frame(frames.HEADERS, 0, 1, HEADERS) + endless) == CALM


def test_what_only_resembles_grpc_is_answered_with_415_and_let_go(path: str) -> None:
    block = hpack.Encoder().encode([*REQUEST[:3], ("content-type", "application/grpc-web")])
    got = [each[:3] for each in converse(path, OPENING + frame(frames.HEADERS, 4, 1, block))]
    assert got[-2:] == [(frames.HEADERS, 5, 1), (frames.RST_STREAM, 0, 1)]


def test_a_client_that_shrinks_the_dynamic_table_is_told_so_once(path: str) -> None:
    """Source: RFC 7541, section 4.2; decoders take what comes without it for broken."""
    settings_frame = frame(frames.SETTINGS, 0, 0, frames.settings({frames.HEADER_TABLE_SIZE: 0}))
    data = frames.PREFACE + settings_frame + frame(frames.HEADERS, 5, 1, HEADERS)
    blocks = [each[3] for each in converse(path, data + frame(frames.HEADERS, 5, 3, HEADERS)) if each[0] == 1]
    assert [block[:1] for block in blocks] == [b"\x20", b"\x88"]
    decoder = hpack.Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    assert next(each[1] for each in decoder.decode(blocks[0])) in {"200", b"200"}


def test_silent_clients_are_dropped_and_others_are_not(tmp_path: Path) -> None:
    server = Server(
        {"/test/Echo": Echo},
        name="silent",
        calls_limit=5,
        message_limit_bytes=1 << 20,
        keepalive_interval_s=0.1,
        keepalive_timeout_s=0.3,
    )
    place = str(tmp_path / "socket")
    server.listen(place)
    server.start()
    try:
        with socket.socket(socket.AF_UNIX) as silent, grpc.insecure_channel(f"unix:{place}") as channel:
            silent.settimeout(10)
            silent.connect(place)
            silent.sendall(OPENING)
            got = b""
            while more := silent.recv(65536):  # it answers no ping, so the connection ends
                got += more
            assert frames.head(8, frames.PING, 0, 0) in got
            assert channel.unary_unary("/test/Echo", None, None)(b"x", timeout=10) == b"x"
            wait_for(lambda: is_alive(place), what="an answer")
    finally:
        server.quit()


_FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 7, (1 << 31) - 1]),
    st.one_of(st.binary(max_size=40), st.just(HEADERS), st.builds(number, st.integers(0, (1 << 32) - 1))),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(_FRAMES, st.just(BEGIN), st.binary(max_size=30)), max_size=12))
def test_no_bytes_hurt_the_server(path: str, parts: list[bytes]) -> None:
    converse(path, OPENING + b"".join(parts))


def test_after_all_of_this_the_server_serves(path: str) -> None:
    assert is_alive(path)
