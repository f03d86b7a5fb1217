"""The pages over real sockets, with a real second server as Envoy."""

import threading
from collections.abc import Iterable, Iterator

import pytest

from pilot_agent.status.counters import Counters
from pilot_agent.status.document import ProbeRow, StatusDocument
from pilot_agent.status.exposition import Sample
from pilot_agent.status.messages import Request
from pilot_agent.status.options import StatusOptions
from pilot_agent.status.pages import Pages, Verb
from tests.support.fake_envoy_admin import FakeEnvoyAdmin
from tests.support.http_peer import closed_port
from tests.support.status_client import ask, get
from tests.unit.status.conftest import Served, Start

ENVOY_PAGE = b"# TYPE envoy_x counter\nenvoy_x{} 1\n" * 10_000


DOCUMENT = StatusDocument(
    agent_version="1",
    generated_unix_s=1.0,
    started_unix_s=0.0,
    ready=True,
    reason="",
    startup_s=1.0,
    pss_bytes=0,
    supervisor_pid=1,
    supervisor_pss_bytes=0,
    actors=(),
    envoys=(),
    certificates=(),
    xds=(),
    workload=None,
    probes=(),
    counters={},
    events=(),
)


class Backend:
    def __init__(self) -> None:
        self.refusal: str | None = None
        self.commands: list[Verb] = []
        self.commanded = threading.Event()
        self.table = b""
        self.streams = b""
        self.dns_started = threading.Event()

    def not_ready_because(self) -> str | None:
        return self.refusal

    def command(self, verb: Verb) -> None:
        self.commands.append(verb)
        self.commanded.set()

    def samples(self) -> Iterable[Sample]:
        return [Sample(series="xds_proxy_requests", value=3)]

    def status(self, probes: tuple[ProbeRow, ...]) -> StatusDocument:
        return DOCUMENT

    def command_line(self) -> bytes:
        return b"pilot-agent\0proxy\0"

    def xds_streams(self) -> bytes:
        return self.streams

    def name_table(self) -> bytes:
        return self.table

    def start_dns(self) -> None:
        self.dns_started.set()


class Port:
    """The status port under test."""

    def __init__(self, serve: Start, **options: object) -> None:
        self.backend, self.counters, self.saved = Backend(), Counters({"scrapes_total": 4}), [0]
        pages = Pages(StatusOptions(**options), self.backend, self.counters, self.count)  # type: ignore[arg-type]
        self.served: Served = serve(pages.answer)
        self.port = self.served.port

    def count(self) -> None:
        self.saved[0] += 1


@pytest.fixture
def envoy() -> Iterator[FakeEnvoyAdmin]:
    with FakeEnvoyAdmin() as admin:
        admin.pages["/stats/prometheus"] = ENVOY_PAGE
        yield admin


def test_readiness_is_200_or_503_without_a_body_and_logged_when_it_is_news(
    serve: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    port = Port(serve)
    for refusal in ("why not", "why not", None, None, "again", None):
        port.backend.refusal = refusal
        for method in ("GET",) if refusal else ("GET", "HEAD", "POST"):
            found = get(port.port, "/healthz/ready", method=method)
            assert (found.status, found.body) == (503 if refusal else 200, b"")
    lines = [line.split("\t", 1)[1] for line in capfd.readouterr().out.splitlines()]
    assert lines == [
        "warn\tEnvoy proxy is NOT ready: why not",
        "warn\tEnvoy proxy is NOT ready: why not",
        "info\tEnvoy proxy is ready",
        "warn\tEnvoy proxy is NOT ready: again",
        "info\tEnvoy proxy is ready",
    ]


@pytest.mark.parametrize("path", ["/metrics", "/stats/prometheus"])
def test_metrics_are_the_agents_and_then_envoys(serve: Start, envoy: FakeEnvoyAdmin, path: str) -> None:
    port = Port(serve, envoy_prometheus_port=envoy.port)
    found = get(port.port, f"{path}?filter=x", "User-Agent: prom", "X-Prometheus-Scrape-Timeout-Seconds: 3")
    assert found.status == 200
    assert found.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    own, _, rest = found.body.partition(b"# TYPE envoy_x")
    assert b"# TYPE envoy_x" + rest == ENVOY_PAGE
    assert b"\nistio_agent_scrapes_total 5\n" in own
    assert b"\nistio_agent_xds_proxy_requests 3\n" in own
    request = envoy.requests[0].decode()
    assert request.startswith("GET /stats/prometheus?filter=x HTTP/1.1\r\n")
    assert "User-Agent: prom" in request
    assert "X-Prometheus-Scrape-Timeout-Seconds: 3" in request
    assert "Accept: text/plain;version=0.0.4" in request


def test_without_envoy_the_scrape_is_200_and_the_failure_counted_in_it(serve: Start) -> None:
    port = Port(serve, envoy_prometheus_port=closed_port())
    found = get(port.port, "/metrics")
    assert found.status == 200
    assert b'\nistio_agent_scrape_failures_total{type="envoy"} 1\n' in found.body
    assert port.saved[0] >= 1
    assert port.counters.values()["scrapes_total"] == 5


def test_another_status_of_envoys_is_a_failure(
    serve: Start, envoy: FakeEnvoyAdmin, capfd: pytest.CaptureFixture[str]
) -> None:
    envoy.status = "500 Internal Server Error"
    port = Port(serve, envoy_prometheus_port=envoy.port)
    assert b"envoy_x" not in get(port.port, "/metrics").body
    assert "failed scraping envoy metrics: error scraping http://localhost:" in capfd.readouterr().out


def test_envoy_is_not_asked_when_merging_is_off(serve: Start, envoy: FakeEnvoyAdmin) -> None:
    port = Port(serve, envoy_prometheus_port=envoy.port, scrape_envoy=False)
    assert b"envoy_x" not in get(port.port, "/metrics").body
    assert not envoy.requests


@pytest.mark.parametrize("verb", ["quit", "drain", "restart"])
def test_a_command_is_taken_from_loopback_by_post(serve: Start, verb: Verb) -> None:
    port = Port(serve)
    path = {"quit": "/quitquitquit", "drain": "/drain", "restart": "/restart"}[verb]
    refused = get(port.port, path)
    assert (refused.status, refused.body) == (405, b"Method Not Allowed\n")
    assert port.backend.commands == []
    taken = get(port.port, path, "Content-Length: 0", "Connection: close", method="POST")
    assert (taken.status, taken.body) == (200, b"OK")
    assert taken.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert port.backend.commanded.wait(5)
    assert port.backend.commands == [verb]


def test_a_command_is_taken_over_ipv6_loopback_too() -> None:
    backend = Backend()
    pages = Pages(StatusOptions(), backend, Counters({}), lambda: None)
    for path in ("/quitquitquit", "/drain"):
        found = pages.answer(Request(method="POST", path=path, query="", headers=(), peer="::1"))
        assert (found.status, found.body) == (200, b"OK")
        assert found.afterwards is not None
        found.afterwards()
    assert backend.commands == ["quit", "drain"]


def test_the_dns_proxy_is_switched_on_by_post_and_its_table_is_shown_when_there_is_one(serve: Start) -> None:
    port = Port(serve)
    assert get(port.port, "/dns").status == 405
    taken = get(port.port, "/dns", "Content-Length: 0", "Connection: close", method="POST")
    assert (taken.status, taken.body) == (200, b"OK")
    assert port.backend.dns_started.wait(5)
    port.backend.table = b'{"table":{}}'
    shown = get(port.port, "/debug/ndsz")
    assert (shown.status, shown.body) == (200, b'{"table":{}}')
    assert shown.headers["Content-Type"] == "application/json"


def test_the_xds_streams_are_shown_as_the_part_that_has_them_tells(serve: Start) -> None:
    port = Port(serve)
    assert get(port.port, "/debug/xds").status == 503
    port.backend.streams = b"[]"
    shown = get(port.port, "/debug/xds")
    assert (shown.status, shown.body, shown.headers["Content-Type"]) == (200, b"[]", "application/json")


def test_the_other_pages_answer_as_recorded(serve: Start) -> None:
    """Source: the recorded endpoints of the reference."""
    port = Port(serve)
    unknown = get(port.port, "/app-health/x/readyz")
    assert (unknown.status, unknown.body) == (
        400,
        b"app prober config does not exists for /app-health/x/readyz",
    )
    assert len(unknown.body) == 58
    table = get(port.port, "/debug/ndsz")
    assert (table.status, table.body) == (404, b"{}")
    assert get(port.port, "/ready").headers["Content-Length"] == "19"
    status = get(port.port, "/status")
    assert (status.status, status.headers["Content-Type"]) == (200, "application/json")


def from_elsewhere(path: str, **options: object) -> int:
    pages = Pages(StatusOptions(**options), Backend(), Counters({}), lambda: None)  # type: ignore[arg-type]
    return pages.answer(Request(method="POST", path=path, query="", headers=(), peer="10.0.0.1")).status


@pytest.mark.parametrize(
    "path",
    ["/quitquitquit", "/drain", "/restart", "/status", "/debug/ndsz", "/debug/xds", "/debug/pprof/", "/dns"],
)
def test_what_shows_or_changes_the_agent_is_for_loopback_alone(path: str) -> None:
    assert from_elsewhere(path) == 403


@pytest.mark.parametrize("path", ["/metrics", "/stats/prometheus"])
def test_metrics_are_for_all_unless_kept_to_loopback(path: str) -> None:
    assert from_elsewhere(path, scrape_envoy=False) == 200
    assert from_elsewhere(path, metrics_from_loopback_only=True) == 403


def test_profiles_are_an_index_the_command_line_and_stacks_unless_switched_off(serve: Start) -> None:
    port = Port(serve).port
    assert b"cmdline" in get(port, "/debug/pprof/").body
    assert get(port, "/debug/pprof").status == 307
    assert get(port, "/debug/pprof/cmdline").body == b"pilot-agent\0proxy"
    assert b"thread MainThread\n" in get(port, "/debug/pprof/goroutine").body
    assert get(port, "/debug/pprof/heap").status == 404
    assert get(Port(serve, profiling=False).port, "/debug/pprof/").status == 404


@pytest.mark.parametrize("path", ["/quitquitquit", "/drain", "/restart", "/dns"])
def test_what_changes_the_agent_is_not_for_pages_of_other_sites(serve: Start, path: str) -> None:
    """A browser may POST to localhost from any site's page, and says so."""
    port = Port(serve)
    answer = get(port.port, path, "Origin: null", "Content-Length: 0", method="POST")
    assert answer.status == 403
    assert port.backend.commands == []


@pytest.mark.parametrize("path", ["/status", "/debug/logs", "/debug/xds"])
def test_what_we_show_is_not_for_a_browser_that_was_led_here_by_another_name(serve: Start, path: str) -> None:
    port = Port(serve)
    port.backend.streams = b"[]"
    for host, status in (("localhost", 200), ("127.0.0.1:15020", 200), ("evil.example", 403)):
        assert ask(port.port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").status == status


def test_a_path_forges_no_line_of_the_log(serve: Start, capfd: pytest.CaptureFixture[str]) -> None:
    port = Port(serve).port
    assert get(port, "/app-health/%0A2026-01-01T00:00:00Z%09info%09forged%1B[2J").status == 400
    written = capfd.readouterr().out
    assert "url /app-health/%0A2026-01-01T00:00:00Z%09info%09forged%1B[2J" in written
    assert "\x1b" not in written
