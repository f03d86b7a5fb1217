"""Connections to the application that are kept: used again where that is safe, and nowhere else."""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import h2.connection
import pytest

from pilot_agent.http.http2 import MOST_REQUESTS
from pilot_agent.status.app.kept import IdleHttp1, Kept
from tests.support.h2_peer import H2Peer, Headers, Reply, self_signed, server_context
from tests.support.http_peer import reply
from tests.unit.status.conftest import Start
from tests.unit.status.test_app_probes import Probing, http


class KeepingPeer:
    """Answers any number of requests on a connection, up to `most`; then it closes without a word."""

    def __init__(self, answer: bytes, *, most: int = 1000, tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._answer, self._most, self._tls = answer, most, tls
        self.served: list[int] = []  # requests of each connection

        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.served.append(0)
            threading.Thread(target=self._talk, args=(sock, len(self.served) - 1), daemon=True).start()

    def _talk(self, sock: socket.socket, number: int) -> None:
        with sock, suppress(OSError):  # the agent has closed what it cannot use again
            talking = self._tls.wrap_socket(sock, server_side=True) if self._tls else sock
            with talking:
                while self.served[number] < self._most and talking.recv(4096):
                    self.served[number] += 1
                    talking.sendall(self._answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.mark.parametrize("secured", [False, True])
def test_a_kept_connection_is_used_again_and_only_where_that_was_asked_for(
    serve: Start, tmp_path: Path, secured: bool
) -> None:
    tls = server_context(self_signed(tmp_path), ()) if secured else None
    with KeepingPeer(reply("200 OK", b"well"), tls=tls) as app:
        with closing(Probing(serve, http(app.port, tls=secured), keep_alive=True)) as probing:
            assert [probing.ask().body for _ in range(5)] == [b"well"] * 5
        assert app.served == [5]
        assert Probing(serve, http(app.port, tls=secured)).ask().status == 200
        assert app.served == [5, 1]


def test_a_connection_that_the_application_has_closed_is_made_anew_without_a_failed_probe(
    serve: Start,
) -> None:
    with KeepingPeer(reply("200 OK"), most=1) as app:
        with closing(Probing(serve, http(app.port), keep_alive=True)) as probing:
            for _ in range(20):  # the end comes before the next request, or together with it
                assert probing.ask().status == 200
        assert app.served == [1] * 20


@pytest.mark.parametrize(
    "answer",
    [
        reply("200 OK", b"", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        reply("200 OK") + b"HTTP/1.1 500 Unasked\r\n",
        reply("200 OK", b"x" * 50_000),
    ],
)
def test_what_cannot_be_used_again_is_not(serve: Start, answer: bytes) -> None:
    with KeepingPeer(answer) as app:
        with closing(Probing(serve, http(app.port), keep_alive=True)) as probing:
            assert [probing.ask().status for _ in range(2)] == [200, 200]
        assert app.served == [1, 1]


def test_only_so_many_idle_connections_are_kept() -> None:
    kept, ends = Kept(), []
    for number in range(40):
        for _ in range(3):
            ours, theirs = socket.socketpair()
            ends.append(theirs)
            kept.give(("127.0.0.1", number, False), IdleHttp1(ours))
    closed = [end for end in ends if select.select([end], [], [], 0)[0]]
    assert len(ends) - len(closed) == 32
    assert kept.take(("127.0.0.1", 0, False)) is None
    newest = [kept.take(("127.0.0.1", 39, False)) for _ in range(3)]
    assert [each is not None for each in newest] == [True, True, False]
    kept.close()
    for end in ends:
        end.close()
    for each in newest:
        if each is not None:
            each.close()


def well(_: Mapping[str, str], __: bytes) -> Reply:
    return {":status": "200"}, b"well", {}


@pytest.fixture
def secured(tmp_path: Path) -> ssl.SSLContext:
    return server_context(self_signed(tmp_path), ("h2",))


def test_a_kept_http2_connection_is_used_again_and_only_where_that_was_asked_for(
    serve: Start, secured: ssl.SSLContext
) -> None:
    with H2Peer(well, tls=secured) as app:
        with closing(Probing(serve, http(app.port, tls=True), keep_alive=True)) as probing:
            assert [probing.ask(f"X-N: {n}").body for n in range(20)] == [b"well"] * 20
        assert len(app.peers) == 1
        assert [headers["x-n"] for headers, _ in app.requests] == [str(n) for n in range(20)]
        once = Probing(serve, http(app.port, tls=True))
        assert [once.ask().status for _ in range(2)] == [200, 200]
        assert len(app.peers) == 3


def test_pings_and_settings_between_two_probes_keep_an_http2_connection(
    serve: Start, secured: ssl.SSLContext
) -> None:
    with H2Peer(well, tls=secured) as app:

        def chat(protocol: h2.connection.H2Connection) -> None:
            protocol.ping(b"12345678")
            protocol.update_settings({3: 100})  # SETTINGS_MAX_CONCURRENT_STREAMS

        app.after_reply = chat
        with closing(Probing(serve, http(app.port, tls=True), keep_alive=True)) as probing:
            assert [probing.ask().status for _ in range(5)] == [200] * 5
        assert len(app.peers) == 1


def big(_: Mapping[str, str], __: bytes) -> Reply:
    return {":status": "200"}, b"x" * 50_000, {}


@pytest.mark.parametrize(
    ("answer", "afterwards"),
    [
        (well, h2.connection.H2Connection.close_connection),
        (well, lambda protocol: protocol.close_connection(error_code=2)),
        (big, lambda _: None),
    ],
    ids=["goodbye", "an error", "an answer that is cut"],
)
def test_an_http2_connection_that_cannot_be_used_again_is_not(
    serve: Start,
    secured: ssl.SSLContext,
    answer: Callable[[Mapping[str, str], bytes], Reply],
    afterwards: Callable[[h2.connection.H2Connection], None],
) -> None:
    with H2Peer(answer, tls=secured) as app:
        app.after_reply = afterwards
        with closing(Probing(serve, http(app.port, tls=True), keep_alive=True)) as probing:
            assert [probing.ask().status for _ in range(3)] == [200] * 3
        assert len(app.peers) == 3


def test_an_http2_connection_that_ends_with_the_next_request_costs_no_probe(
    serve: Start, secured: ssl.SSLContext
) -> None:
    """The second request of each connection is never answered: the connection is closed instead."""
    seen: list[Headers] = []

    def once(headers: Mapping[str, str], _: bytes) -> Reply:
        seen.append(dict(headers))
        if len(seen) % 2 == 0:
            raise OSError("closed")
        return {":status": "200"}, b"", {}

    with H2Peer(once, tls=secured) as app:
        with closing(Probing(serve, http(app.port, tls=True), keep_alive=True)) as probing:
            for _ in range(6):
                assert probing.ask().status == 200
        assert len(app.peers) == 6


def test_an_http2_connection_is_made_anew_after_so_many_probes(serve: Start, secured: ssl.SSLContext) -> None:
    with H2Peer(well, tls=secured) as app:
        with closing(Probing(serve, http(app.port, tls=True), keep_alive=True)) as probing:
            for _ in range(MOST_REQUESTS + 5):
                assert probing.ask().status == 200
        assert len(app.peers) == 2
