"""The pages of the status port: one method each, and the table that names them."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, Protocol

import msgspec

from pilot_agent.log import get_logger, recent_lines
from pilot_agent.status.app.probes import AppProbeOptions, AppProbes
from pilot_agent.status.counters import Counters
from pilot_agent.status.document import ProbeRow, StatusDocument
from pilot_agent.status.exposition import Sample, render
from pilot_agent.status.messages import TEXT, Answer, Request, text
from pilot_agent.status.metrics.merged import Kind, Parts, Scrape, ScrapeOptions
from pilot_agent.status.options import StatusOptions
from pilot_agent.status.profiling import pprof
from pilot_agent.status.routing import FORBIDDEN, Handler, Route, answer
from pilot_agent.status.turns import Turns
from pilot_agent.status.view import HTML, NO_STORE, PAGE_HEADERS, names_this_machine, page, wants_page

_log = get_logger()

_SCRAPES_AT_ONCE: Final = 16
_QUESTIONS_AT_ONCE: Final = 8  # to other actors
_TURN_S: Final = 2.0

_BUSY: Final = text(503, "too many such questions at once")

Verb = Literal["drain", "quit", "restart", "rotate"]


class Backend(Protocol):
    """What the pages need from whoever serves them; called on any thread."""

    def not_ready_because(self) -> str | None: ...
    def command(self, verb: Verb) -> None: ...
    def samples(self) -> Iterable[Sample]: ...
    def status(self, probes: tuple[ProbeRow, ...]) -> StatusDocument: ...
    def command_line(self) -> bytes: ...
    def name_table(self) -> bytes: ...
    def xds_streams(self) -> bytes: ...
    def start_dns(self) -> None: ...


class Pages:
    """Answers requests. `counters` is the server's own, and `counted` is told of each change of it."""

    def __init__(
        self, options: StatusOptions, backend: Backend, counters: Counters, counted: Callable[[], None]
    ) -> None:
        self._options, self._backend = options, backend
        self._counters, self._counted = counters, counted
        self._readiness_log = _ReadinessLog()
        self._scrapes = Turns(_SCRAPES_AT_ONCE)
        self._questions = Turns(_QUESTIONS_AT_ONCE)
        self._scrape = ScrapeOptions(
            envoy_port=options.envoy_prometheus_port if options.scrape_envoy else None,
            targets=options.scrape_targets,
        )
        self._probes = probes = AppProbes(_app_probe_options(options))
        self._routes = self._table(probes)

    def close(self) -> None:
        """Close the connections to the application that were kept."""
        self._probes.close()

    def answer(self, request: Request) -> Answer:
        return answer(self._routes, request)

    def _table(self, probes: AppProbes) -> tuple[Route, ...]:
        here = self._options.metrics_from_loopback_only
        status = self._status if self._options.status_for_all else _named_here(self._status)
        profiles = Route(path="/debug/pprof/", handler=pprof(self._backend.command_line), loopback_only=True)
        return (
            *((profiles,) if self._options.profiling else ()),
            Route(path="/healthz/ready", handler=self._ready),
            Route(path="/metrics", handler=self._metrics, loopback_only=here),
            Route(path="/stats/prometheus", handler=self._metrics, loopback_only=here),
            Route(path="/quitquitquit", handler=self._quit, loopback_only=True, method="POST"),
            Route(path="/drain", handler=self._drain, loopback_only=True, method="POST"),
            Route(path="/restart", handler=self._restart, loopback_only=True, method="POST"),
            Route(path="/rotate", handler=self._rotate, loopback_only=True, method="POST"),
            Route(path="/status", handler=status, loopback_only=not self._options.status_for_all),
            Route(path="/debug/logs", handler=_named_here(_logs), loopback_only=True),
            Route(path="/debug/ndsz", handler=self._name_table, loopback_only=True),
            Route(path="/debug/xds", handler=_named_here(self._xds_streams), loopback_only=True),
            Route(path="/dns", handler=self._dns, loopback_only=True, method="POST"),
            Route(path="/app-health/", handler=probes.answer),
            Route(path="/app-lifecycle/", handler=probes.answer),
        )

    def _ready(self, _: Request) -> Answer:
        refusal = self._backend.not_ready_because()
        self._readiness_log.note(refusal)
        return Answer(status=200 if refusal is None else 503)

    def _quit(self, _: Request) -> Answer:
        def after() -> None:
            _log.info("handling /quitquitquit, notifying pilot-agent to exit")
            self._backend.command("quit")

        return _ok(after)

    def _drain(self, _: Request) -> Answer:
        def after() -> None:
            _log.info("handling /drain, starting drain")
            self._backend.command("drain")

        return _ok(after)

    def _restart(self, _: Request) -> Answer:
        def after() -> None:
            _log.info("handling /restart, starting a new Envoy epoch")
            self._backend.command("restart")

        return _ok(after)

    def _rotate(self, _: Request) -> Answer:
        def after() -> None:
            _log.info("handling /rotate, asking the CA for a new workload certificate")
            self._backend.command("rotate")

        return _ok(after)

    def _dns(self, _: Request) -> Answer:
        """Switch the DNS proxy on; it stays on."""

        def after() -> None:
            _log.info("handling /dns, starting the DNS proxy")
            self._backend.start_dns()

        return _ok(after)

    def _name_table(self, _: Request) -> Answer:
        table = self._asked(self._backend.name_table)
        if table is None:
            return _BUSY
        if not table:
            return Answer(status=404, content_type=TEXT, body=b"{}")
        return Answer(content_type="application/json", body=table)

    def _xds_streams(self, _: Request) -> Answer:
        """Tell of each stream what Envoy asked for, what came, and what Envoy said to it, by type."""
        streams = self._asked(self._backend.xds_streams)
        if streams is None:
            return _BUSY
        if not streams:
            return text(503, "the part that speaks to istiod does not answer")
        return Answer(content_type="application/json", headers=NO_STORE, body=streams)

    def _asked(self, ask: Callable[[], bytes]) -> bytes | None:
        """Return what another actor answers; None when too many wait for such answers already."""
        if not self._questions.acquire(_TURN_S):
            return None
        try:
            return ask()
        finally:
            self._questions.release()

    def _status(self, request: Request) -> Answer:
        """Answer with JSON, or with the page that shows it, whichever is asked for."""
        if wants_page(request):
            return Answer(content_type=HTML, headers=PAGE_HEADERS, body=page())
        body = msgspec.json.format(msgspec.json.encode(self._backend.status(self._probes.rows())), indent=2)
        return Answer(content_type="application/json", headers=NO_STORE, body=body + b"\n")

    def _metrics(self, request: Request) -> Answer:
        """Answer 200 whatever failed: first the agent's own metrics, then what others have, as it comes."""
        if not self._scrapes.acquire(_TURN_S):
            _log.error(f"{_SCRAPES_AT_ONCE} scrapes are under way, one more got no turn")
            return text(503, "too many scrapes at once")
        try:
            self._counters.add("scrapes_total")
            page = Scrape(self._scrape, request, self._scrape_failed).begin()
            self._counted()
            own = render((*self._counters.samples(), *self._backend.samples()))
        except BaseException:
            self._scrapes.release()
            raise
        return Answer(content_type=page.content_type, body=_Behind(own, page.parts, self._scrapes.release))

    def _scrape_failed(self, kind: Kind) -> None:
        self._counters.add("scrape_failures_total", type=kind)
        self._counted()


class _Behind:
    """One piece and then an iterator's; can be closed unread."""

    def __init__(self, first: bytes, parts: Parts, done: Callable[[], None]) -> None:
        self._parts, self._done = parts, done
        self._closed = False
        self._chunks = itertools.chain((first,), parts)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """Let go of the sources; harmless when it was done before."""
        if not self._closed:
            self._closed = True
            self._parts.close()
            self._done()


class _ReadinessLog:
    """Says each failure, and the first success after one; a repeated success is no news."""

    def __init__(self) -> None:
        self._was_ready = False
        self._lock = threading.Lock()

    def note(self, refusal: str | None) -> None:
        with self._lock:
            news, self._was_ready = refusal is not None or not self._was_ready, refusal is None
        if refusal is not None:
            _log.warn(f"Envoy proxy is NOT ready: {refusal}")
        elif news:
            _log.info("Envoy proxy is ready")


def _named_here(handler: Handler) -> Handler:
    """Return a handler that refuses a browser which some site's name was made to lead here."""

    def guarded(request: Request) -> Answer:
        return handler(request) if names_this_machine(request.header("host") or "") else FORBIDDEN

    return guarded


def _ok(afterwards: Callable[[], None]) -> Answer:
    return Answer(content_type=TEXT, body=b"OK", afterwards=afterwards)


def _logs(_: Request) -> Answer:
    return Answer(content_type=TEXT, headers=NO_STORE, body=recent_lines())


def _app_probe_options(options: StatusOptions) -> AppProbeOptions:
    return AppProbeOptions(
        probers=options.app_probers,
        host=options.app_host,
        source_address=options.app_source_address,
        http2=options.app_http2,
        keep_alive=options.app_keep_alive,
        status_port=options.port,
    )
