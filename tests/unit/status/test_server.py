"""The server on real sockets: keep-alive, garbage, slow and vanished clients."""

import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from pilot_agent.status.connection import Limits
from pilot_agent.status.messages import Answer, Request
from tests.support.status_client import ask, get, open_client, read_answer
from tests.support.waiting import wait_for
from tests.unit.status.conftest import Start

IDLE = 0


def echo(request: Request) -> Answer:
    return Answer(content_type="text/plain", body=f"{request.method} {request.path} {request.query}".encode())


def wait_until(condition: object, deadline_s: float = 5.0) -> None:
    assert callable(condition)
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "not in time"


def test_an_empty_answer_has_the_headers_of_the_reference_and_no_others(serve: Start) -> None:
    answer = get(serve(lambda _: Answer()).port, "/healthz/ready")
    assert answer.status == 200
    assert list(answer.headers) == ["Vary", "Date", "Content-Length"]
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Length"] == "0"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["Date"])


def test_a_connection_is_kept_for_the_next_request_and_pipelined_ones_are_answered_in_order(
    serve: Start,
) -> None:
    served = serve(echo)
    with open_client(served.port) as client:
        client.sendall(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_answer(client).body == b"GET /1 "
        client.sendall(
            b"POST /2?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            b"GET /%33 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        data = b""
        while piece := client.recv(65536):
            data += piece
    assert data.count(b"HTTP/1.1 200 OK") == 2
    assert data.index(b"POST /2 q=1") < data.index(b"GET /3 ")


def test_head_has_the_length_and_no_body(serve: Start) -> None:
    answer = get(serve(echo).port, "/x", method="HEAD")
    assert answer.headers["Content-Length"] == str(len("HEAD /x "))
    assert answer.body == b""


def test_an_old_client_gets_its_answer_and_the_end(serve: Start) -> None:
    served = serve(lambda _: Answer(body=iter((b"a", b"b"))))
    assert ask(served.port, "GET / HTTP/1.0\r\n\r\n").body == b"ab"


def test_a_client_that_asks_before_sending_its_body_is_told_to_go_on(serve: Start) -> None:
    with open_client(serve(echo).port) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert read_answer(client).status == 100
        client.sendall(b"ab")
        assert read_answer(client).body == b"POST /x "


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: " + "y" * 60_000, 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + "z" * 100_000, 413),
    ],
    ids=[
        *("tls", "no version", "connect", "connect elsewhere", "no host", "bad header", "two lengths"),
        *("negative", "endless head", "big body"),
    ],
)
def test_what_is_no_request_is_refused_and_the_next_client_served(
    serve: Start, request_bytes: str, status: int
) -> None:
    served = serve(echo)
    answer = ask(served.port, request_bytes)
    assert answer.status == status
    assert answer.headers["Connection"] == "close"
    assert answer.body.startswith(str(status).encode())
    assert get(served.port, "/x").status == 200


def test_a_client_that_sends_half_a_head_is_parted_with_in_time(serve: Start, impatient: Limits) -> None:
    served = serve(echo, limits=impatient)
    for half in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"):
        with open_client(served.port) as client:
            client.sendall(half)
            began = time.monotonic()
            assert client.recv(100) == b""
            assert time.monotonic() - began < 3
    wait_until(lambda: served.server.connections() == 0)


def test_a_client_that_sends_byte_after_byte_gets_no_more_time(serve: Start, impatient: Limits) -> None:
    served = serve(echo, limits=impatient)
    with open_client(served.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        with pytest.raises(OSError, match=r".*"):  # noqa: PT012
            while time.monotonic() - began < 5:
                client.sendall(b"G")
                client.settimeout(0.02)
                try:
                    assert client.recv(1) == b""
                    raise ConnectionResetError
                except TimeoutError:
                    pass
        assert time.monotonic() - began < 3


def test_an_idle_connection_may_stay(serve: Start, impatient: Limits) -> None:
    served = serve(echo, limits=impatient)
    with open_client(served.port) as client:
        client.sendall(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        read_answer(client)
        client.settimeout(2 * impatient.head_s)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        client.sendall(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_answer(client).body == b"GET /2 "


class Closable(Iterator[bytes]):
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.closed = chunks, threading.Event()

    def __next__(self) -> bytes:
        return next(self.chunks)

    def close(self) -> None:
        self.closed.set()


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 65536


def test_a_client_that_does_not_read_is_parted_with_and_the_page_closed(
    serve: Start, impatient: Limits
) -> None:
    body = Closable(endless())
    served = serve(lambda _: Answer(body=body), limits=impatient)
    with open_client(served.port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert body.closed.wait(10)
    wait_until(lambda: served.server.connections() == 0)


def test_an_unread_page_is_closed_after_head(serve: Start) -> None:
    body = Closable(endless())
    assert get(serve(lambda _: Answer(body=body)).port, "/", method="HEAD").status == 200
    assert body.closed.wait(5)


def test_a_slow_page_does_not_delay_another(serve: Start) -> None:
    go_on = threading.Event()

    def handler(request: Request) -> Answer:
        if request.path == "/slow":
            go_on.wait(10)
        return Answer(body=request.path.encode())

    served = serve(handler)
    with open_client(served.port) as slow:
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(5):
            assert get(served.port, "/fast").body == b"/fast"
        go_on.set()
        assert read_answer(slow).body == b"/slow"


def test_when_all_places_are_taken_the_longest_idle_gives_way(serve: Start) -> None:
    served = serve(echo, max_connections=4)
    idle = []
    for number in range(4):
        idle.append(open_client(served.port))
        idle[-1].sendall(f"GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        read_answer(idle[-1])
        wait_for(lambda: all(each.rank()[0] == IDLE for each in served.server._connections))
    assert get(served.port, "/new").status == 200
    assert idle[0].recv(1) == b""
    idle[3].sendall(b"GET /still HTTP/1.1\r\nHost: a\r\n\r\n")
    assert read_answer(idle[3]).body == b"GET /still "
    for client in idle:
        client.close()


def test_many_silent_clients_do_not_keep_a_prober_out(serve: Start) -> None:
    served = serve(echo, max_connections=8)
    silent = [open_client(served.port) for _ in range(40)]
    assert get(served.port, "/healthz/ready").status == 200
    assert served.server.connections() <= 8
    for client in silent:
        client.close()


def test_an_error_in_a_page_is_500_and_the_server_goes_on(serve: Start) -> None:
    def handler(request: Request) -> Answer:
        if request.path == "/bad":
            raise KeyError("no such thing")
        return Answer()

    served = serve(handler)
    assert get(served.port, "/bad").status == 500
    assert get(served.port, "/good").status == 200


@pytest.mark.parametrize(
    "page",
    [
        Answer(status=204, body=b"x"),
        Answer(status=99),
        Answer(status=1000),
        Answer(content_type="a\r\nb: c"),
    ],
    ids=["a body that may not be", "too small", "too large", "two lines"],
)
def test_a_page_that_is_no_answer_is_500_and_the_server_goes_on(serve: Start, page: Answer) -> None:
    served = serve(lambda request: page if request.path == "/bad" else Answer(body=b"well"))
    assert get(served.port, "/bad").status == 500
    assert get(served.port, "/good").body == b"well"


def test_a_page_that_goes_wrong_in_the_middle_is_cut_and_closed(serve: Start) -> None:
    closed = threading.Event()

    class Wrong:
        def __init__(self) -> None:
            self.left = [b"a" * 100_000, b"b" * 100_000]

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if not self.left:
                raise ValueError("wrong")
            return self.left.pop()

        def close(self) -> None:
            closed.set()

    served = serve(lambda _: Answer(body=Wrong()))
    with pytest.raises(ConnectionError):
        get(served.port, "/")
    assert closed.wait(5)
    wait_until(lambda: served.server.connections() == 0)


def test_what_comes_afterwards_comes_after_the_answer(serve: Start) -> None:
    done = threading.Event()
    served = serve(lambda _: Answer(body=b"OK", afterwards=done.set))
    assert get(served.port, "/").body == b"OK"
    assert done.wait(5)


def test_bodies_from_1024_bytes_are_compressed_for_who_wants_it(serve: Start) -> None:
    served = serve(lambda request: Answer(body=b"x" * int(request.query)))
    wants = "Accept-Encoding: zstd;q=0.5, gzip;q=1.0"
    squeezed = get(served.port, "/?1024", wants)
    assert squeezed.headers["Content-Encoding"] == "gzip"
    assert zlib.decompress(squeezed.body, 31) == b"x" * 1024
    assert "Content-Encoding" not in get(served.port, "/?1023", wants).headers
    assert "Content-Encoding" not in get(served.port, "/?1024").headers
    assert "Content-Encoding" not in get(served.port, "/?1024", "Accept-Encoding: gzip;q=0, br").headers


def test_a_streamed_page_is_compressed_as_it_comes(serve: Start) -> None:
    served = serve(lambda _: Answer(body=iter([b"a" * 100_000, b"b" * 100_000])))
    answer = get(served.port, "/", "Accept-Encoding: gzip")
    assert zlib.decompress(answer.body, 31) == b"a" * 100_000 + b"b" * 100_000


def test_the_end_of_listening_refuses_new_clients_and_keeps_the_others(serve: Start) -> None:
    from pilot_agent.status.listener import refuse_from_now_on

    served = serve(echo)
    with open_client(served.port) as client:
        client.sendall(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        read_answer(client)
        refuse_from_now_on(served.listener)
        refuse_from_now_on(served.listener)
        served.thread.join(5)
        with pytest.raises(ConnectionRefusedError):
            open_client(served.port)
        client.sendall(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_answer(client).body == b"GET /2 "
