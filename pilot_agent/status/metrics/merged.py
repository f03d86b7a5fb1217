"""One scrape: what is asked of whom, when, and the order in which it is passed on.

Envoy and the application are asked at the same time, and each part of the answer has a share of the
scraper's own time limit. So neither can take the other's metrics along, and the answer is whole before
the scraper gives up. (The reference lets Envoy's timer run while the application is slow.)
"""

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, Literal, TypeVar

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.status.messages import Request
from pilot_agent.status.metrics.accept import negotiated
from pilot_agent.status.metrics.formats import Format, common_format, format_of, without_eof
from pilot_agent.status.metrics.source import Page, ScrapeError, TooLargeError, open_page
from pilot_agent.status.metrics.targets import ScrapeTarget

_ENVOY_PATH: Final = "/stats/prometheus"
_TIMEOUT_HEADER: Final = "x-prometheus-scrape-timeout-seconds"
_WITHOUT_LIMIT_S: Final = 60.0
"""Where the scraper gives no limit. (The reference then waits for ever.)"""

_HEADS_BY: Final = 0.7
_ENVOY_BY: Final = 0.9
_ALL_BY: Final = 0.95
"""When each part has to be done, as shares of the scraper's limit."""

STREAM_LIMIT_BYTES: Final = 256 << 20
TARGET_LIMIT_BYTES: Final = 10 << 20
"""Of one of several targets, whose pages have to be held until all are there. (The reference's limit.)"""

_log = get_logger()

T = TypeVar("T")
Kind = Literal["envoy", "application", "agent"]


class ScrapeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asked."""

    envoy_port: int | None = 15090  # None: Envoy is not asked
    targets: tuple[ScrapeTarget, ...] = ()


class MergedPage(msgspec.Struct, frozen=True, kw_only=True):
    """What is there behind the agent's own metrics. `parts` is to be closed, read or not."""

    content_type: str
    parts: "Parts"


class Scrape:
    """One request of a scraper; `failed` is told of each source that did not give its page."""

    def __init__(self, options: ScrapeOptions, request: Request, failed: Callable[[Kind], None]) -> None:
        self._options, self._request, self._failed = options, request, failed
        self._accepted = negotiated(request.header("accept"))
        self._limit_s = _limit_s(request)
        self._began_s = time.monotonic()

    def begin(self) -> MergedPage:
        """Ask everybody; return when the heads are here (or are not going to come)."""
        if self._accepted.complaint:
            _log.warn(self._accepted.complaint)
        application = _Asked(self._application) if self._options.targets else None
        envoy = self._envoy()
        pages, form = application.result() if application is not None else ((), Format.TEXT)
        return MergedPage(content_type=form.value, parts=Parts(self, envoy, pages))

    def envoy_chunks(self, page: Page) -> Iterator[bytes]:
        page.within(self._left_s(_ENVOY_BY))
        try:
            yield from page.chunks(STREAM_LIMIT_BYTES)
        except ScrapeError as error:
            self._envoy_failed(error)

    def application_chunks(self, page: Page) -> Iterator[bytes]:
        page.within(self._left_s(_ALL_BY))
        try:
            yield from page.chunks(STREAM_LIMIT_BYTES)
        except ScrapeError as error:
            self._application_failed(f"failed scraping application metrics: {error}")

    def _envoy(self) -> Page | None:
        port = self._options.envoy_port
        if port is None:
            return None
        query = f"?{self._request.query}" if self._request.query else ""
        headers = self._headers(self._accepted.envoy)
        try:
            return open_page(port, _ENVOY_PATH + query, headers, timeout_s=self._left_s(_HEADS_BY))
        except ScrapeError as error:
            self._envoy_failed(error)
            return None

    def _application(self) -> "tuple[Sequence[Page | bytes], Format]":
        targets = self._options.targets
        if len(targets) > 1:
            return self._several(targets)
        try:
            page = self._open(targets[0])
        except ScrapeError as error:
            self._application_failed(f"failed scraping application metrics: {error}")
            return (), Format.TEXT
        return (page,), format_of(page.content_type)

    def _open(self, target: ScrapeTarget) -> Page:
        headers = self._headers(self._accepted.application)
        return open_page(target.port, target.path, headers, timeout_s=self._left_s(_HEADS_BY))

    def _several(self, targets: tuple[ScrapeTarget, ...]) -> tuple[list[Page | bytes], Format]:
        asked = [_Asked(functools.partial(self._whole, target)) for target in targets]
        found = [result for each in asked if (result := each.result()) is not None]
        form = common_format([each for _, each in found])
        bodies: list[Page | bytes] = [without_eof(body) for body, _ in found]
        if form is not Format.TEXT:
            bodies.append(b"# EOF\n")
        return bodies, form

    def _whole(self, target: ScrapeTarget) -> tuple[bytes, Format] | None:
        name = f'scrape target "{target.port}":"{target.path}"'
        try:
            page = self._open(target)
        except ScrapeError as error:
            self._application_failed(f"{name}: scrape failed: {error}")
            return None
        try:
            return b"".join(page.chunks(TARGET_LIMIT_BYTES)), format_of(page.content_type)
        except TooLargeError as error:
            _log.warn(f"{name}: {error}; dropping target")
            self._failed("application")
        except ScrapeError as error:
            self._application_failed(f"{name}: scrape failed: {error}")
        finally:
            page.close()
        return None

    def _headers(self, accept: str) -> list[tuple[str, str]]:
        passed_on = (("User-Agent", "user-agent"), ("X-Prometheus-Scrape-Timeout-Seconds", _TIMEOUT_HEADER))
        found = ((sent, self._request.header(name)) for sent, name in passed_on)
        return [("Accept", accept), *((name, value) for name, value in found if value is not None)]

    def _left_s(self, share: float) -> float:
        return max(self._began_s + share * self._limit_s - time.monotonic(), 0.01)

    def _envoy_failed(self, error: ScrapeError) -> None:
        _log.error(f"failed scraping envoy metrics: {error}")
        self._failed("envoy")

    def _application_failed(self, text: str) -> None:
        _log.error(text)
        self._failed("application")


class Parts:
    """Envoy's page, then the application's; an iterator that can be closed unread."""

    def __init__(self, scrape: Scrape, envoy: Page | None, application: Sequence[Page | bytes]) -> None:
        self._pages = [page for page in (envoy, *application) if isinstance(page, Page)]
        self._chunks = _chunks(scrape, envoy, application)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        for page in self._pages:
            page.close()


def _chunks(scrape: Scrape, envoy: Page | None, application: Sequence[Page | bytes]) -> Iterator[bytes]:
    if envoy is not None:
        yield from scrape.envoy_chunks(envoy)
    for page in application:
        if isinstance(page, bytes):
            yield page
        else:
            yield from scrape.application_chunks(page)


class _Asked(Generic[T]):
    """Runs `work` in a thread of its own."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="scrape", daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for it; the work has its own time limit, and what it raises is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except Exception as error:  # noqa: BLE001  # of this one request, not of the process
            self._error = error


def _limit_s(request: Request) -> float:
    """Return the scraper's own time limit in seconds."""
    text = request.header(_TIMEOUT_HEADER)
    if text is None:
        return _WITHOUT_LIMIT_S
    try:
        limit_s = float(text)
    except ValueError:
        _log.warn(f"Failed to parse timeout header {text!r}: no limit is taken from it")
        return _WITHOUT_LIMIT_S
    return min(limit_s, _WITHOUT_LIMIT_S) if limit_s > 0 else _WITHOUT_LIMIT_S
