"""UpstreamXdsActor's part for Wasm: ECDS responses that a worker rewrites before Envoy gets them.

The stream's thread hands every ECDS response in (`take`) and goes on with other types at once. What a
worker made of it comes back through the actor's mailbox (`finished`) and goes out by `deliver` or, as a
NACK for istiod, by `reject`.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from actors.messages.xds import StreamId, Variant
from actors.runtime.context import Context, WorkerFinished
from pilot_agent.log import get_logger
from pilot_agent.unreadable import UNREADABLE
from pilot_agent.wasm.ecds import needs_rewriting
from pilot_agent.wasm.in_flight import InFlight, Ticket
from pilot_agent.wasm.index import LOCK
from pilot_agent.wasm.last_good import Good, LastGood
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.tally import Tally
from pilot_agent.wasm.work import (
    Count,
    PurgeRequest,
    RewriteAnswer,
    RewriteRequest,
    encode,
    purge_answer,
    rewrite_answer,
)
from pilot_agent.xds.envelope import DeltaRequest, DeltaResponse, SotwRequest, SotwResponse
from pilot_agent.xds.type_urls import ECDS

REWRITE: Final = "wasm"
PURGE: Final = "wasm-purge"
LIMIT_S: Final = 300.0
"""The longest that one response may take, whatever time its filters allow for their modules."""

_WORKERS_AT_ONCE: Final = 4
_SPARE_S: Final = 15.0  # for a worker to start and to answer
_ATTEMPTS: Final = 2
_PURGE_LIMIT_S: Final = 120.0
_SHORTEST_INTERVAL_S: Final = 1.0
_log = get_logger("wasm")


class PurgeDue(msgspec.Struct, frozen=True):
    """To the actor itself: look for modules that nobody has used for long."""


class _Job(msgspec.Struct, kw_only=True):
    stream: StreamId
    variant: Variant
    ticket: Ticket
    request: bytes
    attempt: int = 1


class EcdsConversions:
    """The conversions of all streams. Thread-safe.

    `deliver` gets stream, leg, and what returns the body when its turn has come: what it is to be is
    decided then, so that no older state goes out behind a newer one. `reject` gets stream, leg, nonce and
    the text for istiod. `known` is what `known_changed` was given last, by a predecessor: the filters that
    go on where the modules of newer ones cannot be had. None of the three may block.
    """

    def __init__(
        self,
        context: Context,
        *,
        deliver: Callable[[StreamId, int, Callable[[], bytes | None]], None],
        reject: Callable[[StreamId, int, str, str], None],
        known: Mapping[str, Good],
        known_changed: Callable[[dict[str, Good]], None],
    ) -> None:
        self._context, self._deliver, self._reject = context, deliver, reject
        self._last_good, self._known_changed = LastGood(known), known_changed
        self._options = context.settings(WasmOptions)
        self._lock = threading.Lock()
        self._flights: dict[StreamId, InFlight] = {}
        self._files: dict[StreamId, dict[str, str]] = {}  # what Envoy was given: resource → module's file
        self._files_before: set[str] = set()  # of streams that ended since istiod was heard last
        self._was_heard = False  # istiod has told of extensions in this life
        self._queue: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}  # worker id → what it works on

    def start(self) -> None:
        """Begin to look after the cache."""
        if self._options.enabled:
            self._wake_for_purge()

    def take(
        self, stream: StreamId, variant: Variant, leg: int, response: SotwResponse | DeltaResponse
    ) -> bytes | None:
        """Return what of an ECDS response goes to Envoy now; None if it comes later, or never."""
        body = response.spans.data
        if not self._options.enabled:
            return body
        with self._lock:
            flight = self._flights.setdefault(stream, InFlight(variant))
            ticket = flight.arrived(response, leg)
            self._was_heard = True
            self._forget_files(stream, response)
            if not needs_rewriting(response):
                self._count(_untouched(response.resource_count))
                self._files_before.clear()
                passed = flight.finished(ticket, body)
                if passed is not None:
                    self._note_delivered(stream, variant, passed, {}, ())
                return passed
            request = RewriteRequest(
                variant=variant,
                body=body,
                options=self._options,
                limit_s=LIMIT_S,
                last_good=self._last_good.offered_to(stream) if self._options.keeps_last_good else {},
            )
            self._queue.append(_Job(stream=stream, variant=variant, ticket=ticket, request=encode(request)))
            self._run_next()
        return None

    def judged(self, stream: StreamId, request: SotwRequest | DeltaRequest) -> None:
        """Note Envoy's ACK or NACK of extension configurations; anything else is passed over."""
        if request.type_url != ECDS or not request.response_nonce:
            return
        with self._lock:
            if self._last_good.judged(stream, request.response_nonce, is_nack=request.is_nack):
                self._known_changed(dict(self._last_good.known))

    def finished(self, finished: WorkerFinished) -> None:
        """Take a worker's result."""
        if finished.kind == PURGE:
            self._purged(finished)
            return
        with self._lock:
            job = self._running.pop(finished.worker_id, None)
            self._run_next()
        if job is not None:
            self._settle(job, finished)

    def closed(self, is_gone: Callable[[StreamId], bool]) -> None:
        """Forget the streams that are no more; results of theirs are worth nothing."""
        with self._lock:
            for stream in [each for each in self._flights if is_gone(each)]:
                del self._flights[stream]
                self._last_good.closed(stream)
                self._files_before.update(self._files.pop(stream, {}).values())

    def purge(self) -> None:
        """Have the cache looked through, and again after the interval.

        While istiod is away Envoy may be told of modules that it got long ago, by an agent before this
        one: nothing is purged then.
        """
        self._wake_for_purge()
        if self._was_heard and Path(self._options.directory, LOCK).exists():
            with self._lock:
                told = {file for files in self._files.values() for file in files.values()}
                kept = {good.file for good in self._last_good.known.values()}
                in_use = sorted(told | self._files_before | kept)
            request = PurgeRequest(options=self._options, in_use=in_use)
            self._context.run_worker(PURGE, encode(request), timeout_s=_PURGE_LIMIT_S)

    def _run_next(self) -> None:
        """Start what waits, as far as workers are free; what nobody awaits any more is dropped. Locked."""
        while self._queue and len(self._running) < _WORKERS_AT_ONCE:
            job = self._queue.popleft()
            flight = self._flights.get(job.stream)
            if flight is not None and flight.is_awaited(job.ticket):
                worker_id = self._context.run_worker(REWRITE, job.request, timeout_s=LIMIT_S + _SPARE_S)
                self._running[worker_id] = job

    def _settle(self, job: _Job, finished: WorkerFinished) -> None:
        if finished.result is None:
            self._failed(job, finished.error)
            return
        try:
            answer = rewrite_answer(finished.result)
        except UNREADABLE as error:
            self._failed(job, f"malformed answer: {error}")
            return
        self._count(answer.counts)
        self._context.gauge("wasm_cache_entries", answer.cache_entries)
        if answer.rejected:
            self._rejected(job, answer.rejected)
            return
        self._deliver(job.stream, job.ticket.leg, lambda: self._what_still_counts(job, answer))

    def _what_still_counts(self, job: _Job, answer: RewriteAnswer) -> bytes | None:
        with self._lock:
            flight = self._flights.get(job.stream)
            body = flight.finished(job.ticket, answer.body) if flight is not None else None
            if body is not None:
                self._note_delivered(job.stream, job.variant, body, answer.good, answer.stale)
                known = self._last_good.known
                files = {name: known[name].file for name in answer.stale if name in known}
                files |= {name: good.file for name, good in answer.good.items()}
                self._files.setdefault(job.stream, {}).update(files)
                self._files_before.clear()
            return body

    def _note_delivered(
        self,
        stream: StreamId,
        variant: Variant,
        body: bytes,
        good: Mapping[str, Good],
        stale: Collection[str],
    ) -> None:
        """Note what Envoy gets. Locked."""
        if self._last_good.delivered(stream, variant, body, good, stale):
            self._known_changed(dict(self._last_good.known))
        self._context.gauge("wasm_last_known_good_serving", len(self._last_good.standing))

    def _forget_files(self, stream: StreamId, response: SotwResponse | DeltaResponse) -> None:
        """Note what Envoy will not use any more: in SotW a response is all there is. Locked."""
        files = self._files.get(stream)
        if files is None:
            return
        if isinstance(response, SotwResponse):
            files.clear()
            return
        for name in response.removed:
            files.pop(name.decode(errors="replace"), None)

    def _failed(self, job: _Job, error: str) -> None:
        """Have a worker that died do it again, once; then istiod is told."""
        _log.error(f"conversion of ECDS response nonce={job.ticket.nonce}: {error}", id=job.stream.label)
        if job.attempt >= _ATTEMPTS:
            self._rejected(job, f"conversion of Wasm configuration: {error}")
            return
        with self._lock:
            job.attempt += 1
            self._queue.append(job)
            self._run_next()

    def _rejected(self, job: _Job, error: str) -> None:
        with self._lock:
            flight = self._flights.get(job.stream)
            is_awaited = flight is not None and flight.failed(job.ticket)
        if is_awaited:
            _log.error(f"ECDS response rejected: {error}", id=job.stream.label)
            self._reject(job.stream, job.ticket.leg, job.ticket.nonce, error)

    def _purged(self, finished: WorkerFinished) -> None:
        if finished.result is None:
            _log.warn(f"the cache of Wasm modules could not be looked through: {finished.error}")
        else:
            self._context.gauge("wasm_cache_entries", purge_answer(finished.result).cache_entries)

    def _wake_for_purge(self) -> None:
        self._context.after(max(self._options.purge_interval_s, _SHORTEST_INTERVAL_S), PurgeDue())

    def _count(self, counts: list[Count]) -> None:
        for count in counts:
            self._context.count(count.name, count.value, **count.labels)


def _untouched(resources: int) -> list[Count]:
    """Return what a response counts for that needed no worker."""
    tally = Tally()
    for _ in range(resources):
        tally.conversion("no_remote_load")
    tally.duration(0)
    return tally.counts
