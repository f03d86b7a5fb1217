"""Rewrites one ECDS response. Runs in a short-lived worker process only."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from pilot_agent.http import Deadline
from pilot_agent.wasm.cache import Cache, Wanted
from pilot_agent.wasm.errors import RejectedError
from pilot_agent.wasm.filters import Converted, convert
from pilot_agent.wasm.last_good import Good
from pilot_agent.wasm.tally import Tally
from pilot_agent.wasm.web import web_of
from pilot_agent.wasm.work import RewriteAnswer, RewriteRequest, encode
from pilot_agent.wire import WireError, bytes_field
from pilot_agent.xds.envelope import Spans

_AT_ONCE: Final = 16
"""Resources that are worked on side by side."""


def rewrite(request: bytes) -> bytes:
    """Take an encoded RewriteRequest, return an encoded RewriteAnswer."""
    wanted = msgspec.msgpack.decode(request, type=RewriteRequest)
    tally = Tally()
    cache = Cache(wanted.options, web_of(wanted.options), tally)
    return encode(rewritten(wanted, cache, tally))


def rewritten(request: RewriteRequest, cache: Cache, tally: Tally) -> RewriteAnswer:
    """Convert all resources of a response side by side; one that is rejected rejects them all."""
    began_s = time.monotonic()
    end = Deadline(request.limit_s)

    good: dict[str, Good] = {}
    stale: list[str] = []

    def get_module(wanted: Wanted, timeout_s: float) -> Path:
        return cache.get(wanted, Deadline(min(timeout_s, end.left_s())))

    def get_last_good(name: str) -> Good | None:
        last = request.last_good.get(name)
        return last if last is not None and cache.holds(Path(last.file)) else None

    def one(entry: bytes) -> bytes | RejectedError:
        try:
            is_delta = request.variant == "delta"
            content = _resource_of(entry) if is_delta else entry
            converted = convert(content, get_module, get_last_good)
        except RejectedError as error:
            tally.conversion(error.result)
            return error
        tally.conversion(converted.result)
        if converted.is_stale:
            stale.append(converted.name)
        elif converted.file and converted.resource is not None:
            good[converted.name] = Good(converted.resource, converted.file)
        return _with(entry, converted, is_delta=is_delta)

    spans = Spans(request.body)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        outcomes = list(pool.map(one, spans.all(2)))
    tally.duration(int((time.monotonic() - began_s) * 1000))
    errors = [str(outcome) for outcome in outcomes if isinstance(outcome, RejectedError)]
    resources = (bytes_field(2, outcome) for outcome in outcomes if isinstance(outcome, bytes))
    return RewriteAnswer(
        body=b"" if errors else b"".join((spans.without(2), *resources)),
        rejected=_joined(errors),
        counts=tally.counts,
        cache_entries=cache.count(),
        good=good,
        stale=stale,
    )


def _resource_of(entry: bytes) -> bytes | None:
    """Return the Any in an entry of a delta response."""
    try:
        return Spans(entry).last(2)
    except WireError as error:
        raise RejectedError(f"malformed entry: {error}") from error


def _with(entry: bytes, converted: Converted, *, is_delta: bool) -> bytes:
    """Return the entry with the converted resource in it; everything else of it stays."""
    if converted.resource is None:
        return entry
    if not is_delta:
        return converted.resource
    return Spans(entry).without(2) + bytes_field(2, converted.resource)


def _joined(errors: list[str]) -> str:
    """Return one text for istiod. Source: the reference's form of several errors."""
    if len(errors) < 2:
        return "".join(errors)
    return f"{len(errors)} errors occurred:\n" + "".join(f"\t* {one}\n" for one in errors) + "\n"
