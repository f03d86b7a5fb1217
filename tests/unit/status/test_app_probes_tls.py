"""The application's probes over TLS, with HTTP/1.1 and HTTP/2, against servers that are odd in many ways."""

import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import h2.connection
import pytest

from tests.support.h2_peer import H2Peer, Reply, self_signed, server_context
from tests.support.http_peer import reply
from tests.support.status_client import Raw
from tests.unit.status.conftest import Start
from tests.unit.status.test_app_probes import Probing, http

PUSHED = ((":method", "GET"), (":scheme", "https"), (":authority", "localhost"))


def ok(_: Mapping[str, str], __: bytes) -> Reply:
    return {":status": "200", "content-type": "text/plain"}, b"over h2", {}


@pytest.mark.parametrize(
    ("alpn", "http2", "expected"),
    [
        ((), True, 200),
        (("http/1.1",), True, 200),
        (("h2",), True, 200),
        (("h2", "http/1.1"), True, 200),
        (("h2", "http/1.1"), False, 200),
        (("h2",), False, 500),
    ],
)
def test_https_speaks_what_the_application_chose(
    serve: Start, tmp_path: Path, alpn: tuple[str, ...], http2: bool, expected: int
) -> None:
    context = server_context(self_signed(tmp_path), alpn)
    speaks_h2 = "h2" in alpn and (http2 or alpn == ("h2",))
    if speaks_h2:
        with H2Peer(ok, tls=context) as app:
            found = Probing(serve, http(app.port, tls=True, timeout_s=2), http2=http2).ask("X-A: b")
        if expected == 200:
            headers = app.requests[0][0]
            assert (headers[":method"], headers[":path"], headers["x-a"]) == ("GET", "/ready", "b")
            assert headers[":authority"] == "localhost"
            assert found.body == b"over h2"
    else:
        found = _over_tls(serve, context, http2=http2)
    assert found.status == expected


def _over_tls(serve: Start, context: ssl.SSLContext, *, http2: bool) -> Raw:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one() -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(4096)
            secured.sendall(reply("200 OK", b"over h1"))

    thread = threading.Thread(target=serve_one, daemon=True)
    thread.start()
    with listener:
        found = Probing(serve, http(listener.getsockname()[1], tls=True), http2=http2).ask()
        thread.join(5)
    assert found.body == b"over h1"
    return found


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({":status": "204"}, 204),
        ({":status": "200", "x-odd": b"\xff\xfe"}, 200),
        ({":status": "302", "location": b"http://\xff:x/"}, 500),
        ({":status": "304"}, 200),
        ({":status": "099"}, 500),
        ({":status": "1000"}, 500),
        ({":status": "-20"}, 500),
        ({":status": "none"}, 500),
    ],
)
def test_an_odd_status_over_http2_is_answered_and_the_port_goes_on(
    serve: Start, tmp_path: Path, headers: dict[str, Any], expected: int
) -> None:
    context = server_context(self_signed(tmp_path), ("h2",))
    with H2Peer(lambda _, __: (headers, b"a body that may not be there", {}), tls=context) as app:
        probing = Probing(serve, http(app.port, tls=True, timeout_s=2))
        assert [probing.ask().status for _ in range(2)] == [expected] * 2


def test_what_is_pushed_over_http2_is_not_taken_for_the_answer(serve: Start, tmp_path: Path) -> None:
    context = server_context(self_signed(tmp_path), ("h2",))
    with H2Peer(ok, tls=context) as app:

        def push(protocol: h2.connection.H2Connection, stream: int) -> None:
            protocol.push_stream(stream, 2 * len(app.requests), [*PUSHED, (":path", "/pushed")])
            protocol.send_headers(2 * len(app.requests), [(":status", "500")])
            protocol.send_data(2 * len(app.requests), b"pushed", end_stream=True)

        app.before_reply = push
        with closing(Probing(serve, http(app.port, tls=True, timeout_s=2), keep_alive=True)) as probing:
            for _ in range(3):
                found = probing.ask()
                assert (found.status, found.body) == (200, b"over h2")
        assert len(app.peers) == 1


def test_a_server_that_agrees_to_none_of_the_offered_protocols_is_500(serve: Start, tmp_path: Path) -> None:
    context = server_context(self_signed(tmp_path), ("unknown",))
    with H2Peer(ok, tls=context) as app:
        assert Probing(serve, http(app.port, tls=True, timeout_s=1)).ask().status == 500
