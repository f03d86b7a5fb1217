"""Whatever clients ask and applications answer, no thread of the status port dies: an actor dies with it."""

import random
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pilot_agent.status.app.configuration import AppProber
from pilot_agent.status.connection import Limits
from pilot_agent.status.counters import Counters
from pilot_agent.status.metrics.targets import ScrapeTarget
from pilot_agent.status.options import StatusOptions
from pilot_agent.status.pages import Pages
from tests.support.http_peer import HttpPeer, reply
from tests.support.status_client import get, open_client
from tests.unit.status.conftest import Start
from tests.unit.status.test_pages import Backend

REQUESTS = 250
METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"\xffX")
PATHS = (
    *(
        b"/metrics",
        b"/healthz/ready",
        b"/app-health/a/readyz",
        b"/app-health/a/livez",
        b"/app-health/a/startupz",
    ),
    *(b"/quitquitquit", b"/status?format=html", b"/debug/logs", b"/debug/ndsz", b"//x", b"/a/../b", b"*"),
    *(b"http://h/metrics", b"/metrics?a=%zz", b"/%00%0d%0a", b"/%ff"),
)
HEADERS = (
    *(b"Accept: text/plain;q=nan,a/b;q=inf,application/*", b"Accept: \xff", b"Accept: " + b"*/*," * 999),
    *(b"Accept-Encoding: gzip;q=1e400, zstd", b"X-Prometheus-Scrape-Timeout-Seconds: nan"),
    *(b"X-Prometheus-Scrape-Timeout-Seconds: -1e999", b"X-Prometheus-Scrape-Timeout-Seconds: 0.05"),
    *(b"Connection: close", b"Connection: upgrade", b"Upgrade: h2c", b"Expect: 100-continue"),
    *(b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Host: b", b"User-Agent: \xff\xfe"),
)
BODIES = (b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"zz\r\n")
ANSWERS = (
    reply("200 OK", b"\x1f\x8b\xff\xff", "Content-Encoding: gzip"),
    reply("200 OK", b"a 1\n# EOF", 'Content-Type: application/openmetrics-text; version="1.0.0"'),
    reply("302 Found", b"", "Location: http://[::1"),
    reply("302 Found", b"", "Location: /\xff"),
    reply("000 Nothing", b"x"),
    b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\nnine char",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\0" * 100,
    b"",
    reply("200 OK", b"x" * 20_000),
)


@pytest.fixture
def died(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the threads that an error ends; in an actor each takes the process with it."""
    found: list[str] = []
    monkeypatch.setattr(
        threading, "excepthook", lambda end: found.append(f"{end.exc_type.__name__}: {end.exc_value}")
    )
    return found


def requests(seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    for _ in range(REQUESTS):
        first = b"%s %s HTTP/%s" % (draw.choice(METHODS), draw.choice(PATHS), draw.choice((b"1.1", b"1.0")))
        lines = [
            first,
            b"Host: localhost",
            *draw.sample(HEADERS, draw.randrange(4)),
            b"",
            draw.choice(BODIES),
        ]
        data = bytearray(b"\r\n".join(lines))
        for _ in range(draw.choice((0, 0, 0, 1, 3))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        yield bytes(data)


@pytest.mark.parametrize("keep_alive", [False, True])
def test_no_request_and_no_answer_of_an_application_ends_a_thread(
    serve: Start, died: list[str], keep_alive: bool
) -> None:
    turn = iter(range(1_000_000))
    seed = random.randrange(1 << 30)
    with HttpPeer(lambda _: ANSWERS[next(turn) % len(ANSWERS)]) as peer:
        kinds = (("readyz", "http"), ("livez", "tcp"), ("startupz", "grpc"))
        options = StatusOptions(
            envoy_prometheus_port=peer.port,
            scrape_targets=tuple(ScrapeTarget(port=peer.port, path=path) for path in ("/m", "/n")),
            app_probers={
                f"/app-health/a/{path}": AppProber(kind=kind, port=peer.port, timeout_s=0.2)  # type: ignore[arg-type]
                for path, kind in kinds
            },
            app_host="127.0.0.1",
            app_keep_alive=keep_alive,
        )
        pages = Pages(options, Backend(), Counters({}), lambda: None)
        limits = Limits(head_s=0.2, linger_s=0.02, pipelined_pause_s=0.001)
        port = serve(pages.answer, limits=limits).port
        for request in requests(seed):
            with open_client(port) as client, suppress(OSError):
                client.settimeout(0.3)
                client.sendall(request)
                client.recv(65536)
        assert get(port, "/healthz/ready").status == 200
        pages.close()
    assert died == [], f"seed {seed}"
