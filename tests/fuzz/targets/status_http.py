"""The status port's HTTP: whatever a client sends, it is answered in HTTP/1.1 or not at all."""

import re
import socket
from typing import Final

from pilot_agent.status import routing
from pilot_agent.status.connection import Connection, Limits
from pilot_agent.status.messages import Answer, Request, printable
from pilot_agent.status.routing import Route

_LIMITS: Final = Limits(head_s=2.0, send_s=2.0, pipelined_pause_s=0.0, linger_s=0.0, body_bytes=4096)
_MOST_BYTES: Final = 16_384
_ANSWERS: Final = re.compile(rb"\AHTTP/1\.1 [1-5][0-9][0-9] ")


def _echo(request: Request) -> Answer:
    assert "\n" not in request.method
    assert printable(request.path).isprintable()
    request.from_loopback()
    request.header("accept")
    return Answer(body=request.query.encode() * 30)


_ROUTES: Final = (
    Route(path="/", handler=_echo),
    Route(path="/tree/", handler=_echo),
    Route(path="/quitquitquit", handler=_echo, loopback_only=True, method="POST"),
)


def target(data: bytes) -> None:
    """Let one client send these bytes and close, and look at what it was sent."""
    failures: list[Exception] = []

    def handle(request: Request) -> Answer:
        try:
            return routing.answer(_ROUTES, request)
        except Exception as error:
            failures.append(error)
            raise

    client, server = socket.socketpair()
    with client:
        client.sendall(data[:_MOST_BYTES])
        client.shutdown(socket.SHUT_WR)
        Connection(server, "127.0.0.1", handle, _LIMITS).serve()
        assert not failures, failures
        client.settimeout(2)
        answered = client.recv(100)
    assert not answered or _ANSWERS.match(answered), answered


def seeds() -> list[bytes]:
    return [
        b"GET /healthz/ready HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1\r\n\r\n",
        b"POST /quitquitquit HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\naGET /tree?x HTTP/1.0\r\n\r\n",
        b"GET http://x/%2e%2e/a%0d?b HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip;q=0.1, *\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ]
