"""The merged page: Envoy and application in all states, over real sockets."""

import gzip
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from pilot_agent.status.metrics import merged
from pilot_agent.status.metrics.targets import ScrapeTarget
from tests.support.http_peer import HttpPeer, closed_port, reply
from tests.support.status_client import Raw, get
from tests.unit.status.conftest import Start
from tests.unit.status.test_accept import PROMETHEUS
from tests.unit.status.test_pages import Port

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_1 = "application/openmetrics-text; version=1.0.0; charset=utf-8"
ENVOY = b"# TYPE envoy_requests counter\nenvoy_requests{} 7\n"
APP = b"# TYPE app_requests counter\napp_requests 5\n"
OPEN_APP = b"# TYPE app_requests counter\napp_requests_total 5\n# EOF\n"


def page(body: bytes, content_type: str = TEXT) -> Callable[[bytes], bytes | None]:
    return lambda _: reply("200 OK", body, f"Content-Type: {content_type}")


def broken(_: bytes) -> bytes:
    return reply("500 Internal Server Error")


class World:
    """A status port with Envoy and applications behind it."""

    def __init__(self, serve: Start, stack: ExitStack) -> None:
        self._serve, self._stack = serve, stack
        self.envoy: HttpPeer | None = None
        self.apps: list[HttpPeer] = []

    def start(
        self, envoy: Callable[[bytes], bytes | None] | None, *apps: object, **options: object
    ) -> "World":
        """Serve; an application is what it answers, or the number of a port."""
        self.envoy = self._stack.enter_context(HttpPeer(envoy)) if envoy else None
        ports = []
        for app in apps:
            if isinstance(app, int):
                ports.append(app)
            else:
                self.apps.append(self._stack.enter_context(HttpPeer(app)))  # type: ignore[arg-type]
                ports.append(self.apps[-1].port)
        targets = tuple(ScrapeTarget(port=port, path="/app") for port in ports)
        prometheus = self.envoy.port if self.envoy else closed_port()
        self.port = Port(self._serve, envoy_prometheus_port=prometheus, scrape_targets=targets, **options)
        return self

    def scrape(self, *headers: str, path: str = "/stats/prometheus") -> Raw:
        return get(self.port.port, path, *headers)

    def failures(self) -> dict[str, float]:
        prefix = "scrape_failures_total"
        found = self.port.counters.values().items()
        return {name.removeprefix(prefix): value for name, value in found if name.startswith(prefix)}


@pytest.fixture
def world(serve: Start) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(serve, stack)


def test_the_order_is_agent_envoy_application(world: World) -> None:
    found = world.start(page(ENVOY), page(APP)).scrape("Accept: text/plain")
    assert found.status == 200
    assert found.headers["Content-Type"] == TEXT
    assert found.body.endswith(ENVOY + APP)
    families = {family.name for family in text_string_to_metric_families(found.body.decode())}
    assert {"istio_agent_scrapes", "envoy_requests", "app_requests"} <= families


@pytest.mark.parametrize(("envoy", "app"), [*itertools.product((True, False), repeat=2)])
def test_whatever_fails_the_answer_is_200_and_the_failure_counted(
    world: World, capfd: pytest.CaptureFixture[str], envoy: bool, app: bool
) -> None:
    world.start(page(ENVOY) if envoy else broken, page(APP) if app else broken)
    found = world.scrape("Accept: text/plain")
    assert found.status == 200
    assert (ENVOY in found.body, APP in found.body) == (envoy, app)
    expected = {'{type="envoy"}': 1.0} if not envoy else {}
    expected |= {'{type="application"}': 1.0} if not app else {}
    assert world.failures() == expected
    for series in expected:
        assert f"\nistio_agent_scrape_failures_total{series} 1\n".encode() in found.body, "in this very page"
    log = capfd.readouterr().out
    assert ("failed scraping envoy metrics: error scraping http://localhost:" in log) is not envoy
    assert ("failed scraping application metrics: error scraping http://localhost:" in log) is not app
    assert ("status code: 500" in log) is not (envoy and app)


def test_equal_families_are_both_there_untouched(world: World) -> None:
    twice = b'# TYPE my_metric counter\nmy_metric{app="x"} 1\n'
    assert world.start(page(twice), page(twice)).scrape().body.endswith(twice + twice)


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/openmetrics-text; version=1.0.0", OPEN_APP, OPEN_1),
        ("application/openmetrics-text", OPEN_APP, OPEN_1.replace("1.0.0", "0.0.1")),
        ("text/plain; version=0.0.4", APP, TEXT),
        ("", APP, TEXT),
    ],
)
def test_the_format_is_the_applications_and_the_whole_parses_in_it(
    world: World, content_type: str, body: bytes, expected: str
) -> None:
    found = world.start(None, page(body, content_type), scrape_envoy=False).scrape(f"Accept: {PROMETHEUS}")
    assert found.headers["Content-Type"] == expected
    assert found.body.endswith(body)
    if expected == TEXT:
        assert list(text_string_to_metric_families(found.body.decode()))
    else:
        mine = found.body.partition(b"# TYPE app_requests")[2]
        assert list(openmetrics_families("# TYPE app_requests" + mine.decode()))  # type: ignore[no-untyped-call]


def test_what_is_passed_on_is_named_and_nothing_else(world: World) -> None:
    world.start(page(ENVOY), page(APP))
    world.scrape(
        f"Accept: {PROMETHEUS}",
        "User-Agent: Prometheus/3.0",
        "X-Prometheus-Scrape-Timeout-Seconds: 9",
        "Authorization: Bearer secret",
        "Cookie: a=b",
        path="/stats/prometheus?usedonly&filter=^x$",
    )
    assert world.envoy is not None
    asked = world.envoy.requests[0].decode().split("\r\n"), world.apps[0].requests[0].decode().split("\r\n")
    assert asked[0][0] == "GET /stats/prometheus?usedonly&filter=%5Ex$ HTTP/1.1"
    assert asked[1][0] == "GET /app HTTP/1.1", "the query is Envoy's alone"
    common = {"User-Agent: Prometheus/3.0", "X-Prometheus-Scrape-Timeout-Seconds: 9", "Connection: close"}
    assert set(filter(None, asked[0][1:])) == common | {
        f"Host: localhost:{world.envoy.port}",
        "Accept: text/plain; q=0.1; version=0.0.4",
    }
    assert set(filter(None, asked[1][1:])) == common | {
        f"Host: localhost:{world.apps[0].port}",
        (
            "Accept: application/openmetrics-text; q=0.3; version=1.0.0,application/openmetrics-text; q=0.2; "
            "version=0.0.1,text/plain; q=0.1; version=0.0.4"
        ),
    }


def test_a_slow_application_does_not_take_envoys_metrics_along(world: World) -> None:
    began_s = time.monotonic()
    found = world.start(page(ENVOY), lambda _: None).scrape("X-Prometheus-Scrape-Timeout-Seconds: 1.5")
    assert time.monotonic() - began_s < 1.5, "the scraper would have given up"
    assert found.body.endswith(ENVOY)
    assert world.failures() == {'{type="application"}': 1.0}


def test_a_silent_envoy_does_not_take_the_applications_metrics_along(world: World) -> None:
    began_s = time.monotonic()
    found = world.start(lambda _: None, page(APP)).scrape("X-Prometheus-Scrape-Timeout-Seconds: 1.5")
    assert time.monotonic() - began_s < 1.5
    assert found.body.endswith(APP)
    assert world.failures() == {'{type="envoy"}': 1.0}


def test_a_timeout_that_is_no_number_is_told_and_ignored(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    found = world.start(page(ENVOY)).scrape("X-Prometheus-Scrape-Timeout-Seconds: soon")
    assert found.body.endswith(ENVOY)
    assert "\twarn\tFailed to parse timeout header 'soon'" in capfd.readouterr().out


class Drip:
    """Writes a page without an end, or one that breaks off in the middle of a line."""

    def __init__(self, *, endless: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent_bytes = 0
        self._endless = endless
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\nfirst_line 1\n")
            block = b"again_and_again{} 1\n" * 1000
            try:
                while self._endless:
                    connection.sendall(block)
                    self.sent_bytes += len(block)
            except OSError:
                return
            connection.sendall(b"cut_off 17")

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()


def test_an_endless_page_is_cut_at_whole_lines_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "STREAM_LIMIT_BYTES", 5_000_000)
    drip = Drip(endless=True)
    world.start(None, page(APP))
    world.port = Port(
        world._serve,
        envoy_prometheus_port=drip.port,
        scrape_targets=(ScrapeTarget(port=world.apps[0].port, path="/"),),
    )
    found = world.scrape()
    drip.close()
    assert found.body.endswith(b"again_and_again{} 1\n" + APP), "the application's metrics are still there"
    assert 4_900_000 < len(found.body) < 5_100_000
    assert world.failures() == {'{type="envoy"}': 1.0}


def test_a_page_that_breaks_off_leaves_no_half_line(world: World) -> None:
    drip = Drip(endless=False)
    world.start(None, page(APP))
    world.port = Port(
        world._serve,
        envoy_prometheus_port=drip.port,
        scrape_targets=(ScrapeTarget(port=world.apps[0].port, path="/"),),
    )
    found = world.scrape()
    drip.close()
    assert found.body.endswith(b"first_line 1\n" + APP)
    assert world.failures() == {'{type="envoy"}': 1.0}


def test_a_packed_page_is_unpacked_as_it_comes(world: World) -> None:
    packed = reply("200 OK", gzip.compress(APP * 10_000), "Content-Encoding: gzip")
    assert world.start(page(ENVOY), lambda _: packed).scrape().body.endswith(ENVOY + APP * 10_000)


def test_several_targets_come_in_their_order_with_one_end_mark(world: World) -> None:
    first = threading.Event()

    def late(_: bytes) -> bytes:
        assert first.wait(5), "the second is asked while the first is not answered"
        return reply("200 OK", b"# TYPE a counter\na_total 1\n# EOF\r\n", f"Content-Type: {OPEN_1}")

    def early(_: bytes) -> bytes:
        first.set()
        return reply("200 OK", b"# TYPE b counter\nb_total 2\n# EOF", f"Content-Type: {OPEN_1}")

    found = world.start(page(ENVOY), late, early).scrape(f"Accept: {PROMETHEUS}")
    assert found.headers["Content-Type"] == OPEN_1
    assert found.body.endswith(ENVOY + b"# TYPE a counter\na_total 1\n# TYPE b counter\nb_total 2\n# EOF\n")
    assert found.body.count(b"# EOF") == 1


@pytest.mark.parametrize(
    ("first", "second", "content_type", "failed"),
    [
        (page(OPEN_APP, OPEN_1), page(APP), TEXT, 0),
        (page(APP), page(OPEN_APP, OPEN_1), TEXT, 0),
        (broken, page(OPEN_APP, OPEN_1), OPEN_1, 1),
        (page(OPEN_APP, OPEN_1), broken, OPEN_1, 1),
        (broken, broken, TEXT, 2),
    ],
)
def test_the_format_of_several_is_that_of_those_which_answered(
    world: World, first: object, second: object, content_type: str, failed: int
) -> None:
    found = world.start(page(ENVOY), first, second).scrape()
    assert (found.status, found.headers["Content-Type"]) == (200, content_type)
    assert ENVOY in found.body
    assert found.body.count(b"# EOF") == (content_type == OPEN_1)
    assert world.failures() == ({'{type="application"}': float(failed)} if failed else {})


def test_a_target_at_the_limit_passes_and_one_byte_more_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(merged, "TARGET_LIMIT_BYTES", len(APP))
    found = world.start(page(ENVOY), page(APP), page(APP + b"\n")).scrape()
    assert found.body.endswith(ENVOY + APP)
    assert world.failures() == {'{type="application"}': 1.0}
    port = world.apps[1].port
    line = f'\twarn\tscrape target "{port}":"/app": response exceeds {len(APP)} bytes; dropping target'
    assert line in capfd.readouterr().out


def test_merging_can_be_switched_off_for_envoy(world: World) -> None:
    found = world.start(page(ENVOY), page(APP), scrape_envoy=False).scrape()
    assert found.body.endswith(APP)
    assert ENVOY not in found.body
    assert world.envoy is not None
    assert not world.envoy.requests


def test_a_scraper_that_leaves_takes_nothing_with_it(world: World) -> None:
    large = b"x{} 1\n" * 3_000_000
    world.start(page(large), page(APP))
    with socket.create_connection(("127.0.0.1", world.port.port)) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100)
    assert world.scrape().body.endswith(APP)
