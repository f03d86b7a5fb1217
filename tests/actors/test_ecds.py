"""Conversions of ECDS beside a stream: what goes out at once, what later, what never."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from envoy.extensions.filters.http.fault.v3 import fault_pb2

from actors.ecds import PURGE, REWRITE, EcdsConversions, PurgeDue
from actors.messages.xds import StreamId
from actors.runtime.context import WorkerFinished
from actors.runtime.roles import Role
from pilot_agent.wasm.index import LOCK
from pilot_agent.wasm.last_good import Good
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.work import (
    Count,
    PurgeAnswer,
    PurgeRequest,
    RewriteAnswer,
    RewriteRequest,
    encode,
)
from pilot_agent.xds.envelope import (
    DeltaResponse,
    SotwResponse,
    read_delta_request,
    read_delta_response,
    read_sotw_request,
    read_sotw_response,
)
from pilot_agent.xds.type_urls import ECDS
from tests.support.context import FakeContext
from tests.support.wasm import extension, http_filter, plugin
from tests.support.xds_messages import ack, response

STREAM, OTHER = StreamId(1, 1), StreamId(1, 2)
WASM, PLAIN = http_filter(plugin()), fault_pb2.HTTPFault()
_FLIGHT_BODY = b"rewritten"


@dataclass
class SlowWorkers(FakeContext):
    """Workers that answer when the test says so."""

    started: list[tuple[int, str, bytes]] = field(default_factory=list)

    def run_worker(self, kind: str, request: bytes, *, timeout_s: float) -> int:
        self.started.append((len(self.started) + 1, kind, request))
        return len(self.started)


class Rig:
    def __init__(self, directory: Path, *, known: dict[str, Good] | None = None, **options: Any) -> None:
        settings = WasmOptions(directory=str(directory), **options)
        self.context = SlowWorkers(Role.UPSTREAM_XDS, options=(settings,))
        self.sent: list[tuple[StreamId, int, bytes]] = []
        self.told: list[tuple[StreamId, int, str, str]] = []
        context: Any = self.context
        self.kept: list[dict[str, Good]] = []  # what was to be kept for a successor
        self.conversions = EcdsConversions(
            context,
            deliver=self._deliver,
            reject=self._reject,
            known=known or {},
            known_changed=self.kept.append,
        )

    def _deliver(self, stream: StreamId, leg: int, make: Callable[[], bytes | None]) -> None:
        body = make()
        if body is not None:
            self.sent.append((stream, leg, body))

    def _reject(self, stream: StreamId, leg: int, nonce: str, error: str) -> None:
        self.told.append((stream, leg, nonce, error))

    def take(self, nonce: str, *, stream: StreamId = STREAM, leg: int = 1, **filters: Any) -> bytes | None:
        return self.conversions.take(stream, "sotw", leg, told("sotw", nonce, **filters))

    def finish(
        self,
        worker_id: int,
        *,
        body: bytes = _FLIGHT_BODY,
        rejected: str = "",
        error: str = "",
        files: dict[str, str] | None = None,
        stale: tuple[str, ...] = (),
    ) -> None:
        counts = [Count("wasm_config_conversion_count", 1.0, {"result": "success"})]
        good = {name: Good(b"good " + name.encode(), file) for name, file in (files or {}).items()}
        answer = RewriteAnswer(
            body=body, rejected=rejected, counts=counts, cache_entries=3, good=good, stale=list(stale)
        )
        result = None if error else encode(answer)
        self.conversions.finished(
            WorkerFinished(worker_id=worker_id, kind=REWRITE, result=result, error=error)
        )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def told(variant: str, nonce: str, **filters: Any) -> SotwResponse | DeltaResponse:
    message = response(variant, ECDS, nonce, "1", **dict.fromkeys(filters, b""))
    for entry, (name, content) in zip(message.resources, filters.items(), strict=True):
        (entry if variant == "sotw" else entry.resource).ParseFromString(extension(name, content))
    data = message.SerializeToString()
    return read_sotw_response(data) if variant == "sotw" else read_delta_response(data)


def test_what_loads_nothing_goes_on_at_once_and_is_counted(rig: Rig) -> None:
    body = rig.take("1", a=PLAIN, b=PLAIN)
    assert body == told("sotw", "1", a=PLAIN, b=PLAIN).spans.data
    assert rig.context.started == []
    assert rig.context.counters["wasm_config_conversion_count,result=no_remote_load"] == 2
    assert rig.context.counters["wasm_config_conversion_duration_count"] == 1


def test_wasm_comes_later_rewritten(rig: Rig) -> None:
    assert rig.take("1", a=WASM) is None
    rig.finish(1)
    assert rig.sent == [(STREAM, 1, _FLIGHT_BODY)]
    assert rig.told == []
    assert rig.context.counters["wasm_config_conversion_count,result=success"] == 1
    assert rig.context.counters["wasm_cache_entries"] == 3


def test_a_newer_response_makes_an_older_conversion_pointless(rig: Rig) -> None:
    rig.take("1", a=WASM)
    assert rig.take("2", a=PLAIN) is not None
    rig.finish(1)
    assert rig.sent == []
    rig.take("3", a=WASM)
    rig.take("4", a=WASM)
    rig.finish(3, body=b"newer")
    rig.finish(2, rejected="older and bad")
    assert rig.sent == [(STREAM, 1, b"newer")]
    assert rig.told == []


def test_what_goes_out_is_decided_when_its_turn_has_come(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    turns: list[Callable[[], bytes | None]] = []
    rig.conversions._deliver = lambda stream, leg, make: turns.append(make)
    rig.take("1", a=WASM)
    rig.finish(1)
    assert rig.take("2", a=PLAIN) is not None  # overtakes the older one, which waits for its turn
    assert [make() for make in turns] == [None]


def test_in_delta_the_names_of_a_newer_response_are_left_out_of_the_older(rig: Rig) -> None:
    old, new = told("delta", "1", a=WASM, b=WASM), told("delta", "2", a=PLAIN)
    assert rig.conversions.take(STREAM, "delta", 1, old) is None
    assert rig.conversions.take(STREAM, "delta", 1, new) == new.spans.data
    rig.finish(1, body=old.spans.data)
    ((_, _, body),) = rig.sent
    assert list(read_delta_response(body).versions()) == [b"b"]


def test_a_rejection_is_told_with_its_nonce(rig: Rig) -> None:
    rig.take("n7", leg=3, a=WASM)
    rig.finish(1, body=b"", rejected="no good")
    assert rig.sent == []
    assert rig.told == [(STREAM, 3, "n7", "no good")]


def test_streams_do_not_disturb_each_other(rig: Rig) -> None:
    rig.take("1", a=WASM)
    rig.take("1", stream=OTHER, a=WASM)
    rig.finish(2, body=b"other")
    rig.finish(1, body=b"one")
    assert rig.sent == [(OTHER, 1, b"other"), (STREAM, 1, b"one")]


def test_results_for_a_stream_or_a_leg_that_is_gone_are_dropped(rig: Rig) -> None:
    rig.take("1", a=WASM)
    rig.take("1", leg=2, a=WASM)
    rig.take("1", stream=OTHER, a=WASM)
    rig.conversions.closed(lambda stream: stream == OTHER)
    for worker_id in (1, 2, 3):
        rig.finish(worker_id)
    assert rig.sent == [(STREAM, 2, _FLIGHT_BODY)]


def test_a_worker_that_dies_is_replaced_once_then_istiod_is_told(rig: Rig) -> None:
    rig.take("1", a=WASM)
    rig.finish(1, error="killed by signal 9")
    assert len(rig.context.started) == 2
    rig.finish(2)
    assert rig.sent == [(STREAM, 1, _FLIGHT_BODY)]
    rig.take("2", a=WASM)
    rig.finish(3, error="killed by signal 9")
    rig.finish(4, error="timed out")
    assert rig.told == [(STREAM, 1, "2", "conversion of Wasm configuration: timed out")]


def test_a_worker_that_answers_nonsense_counts_as_dead(rig: Rig) -> None:
    rig.take("1", a=WASM)
    for worker_id in (1, 2):
        rig.conversions.finished(WorkerFinished(worker_id=worker_id, kind=REWRITE, result=b"?", error=""))
    assert "malformed answer" in rig.told[0][3]


def test_few_workers_run_at_once_and_what_nobody_awaits_is_not_begun(rig: Rig) -> None:
    for number in range(1, 7):
        rig.take("1", stream=StreamId(1, number), a=WASM)
    assert len(rig.context.started) == 4
    rig.conversions.closed(lambda stream: stream.number == 5)
    rig.finish(1)
    assert len(rig.context.started) == 5
    rig.finish(2)
    assert len(rig.context.started) == 5
    assert [stream.number for stream, _, _ in rig.sent] == [1, 2]


def test_a_result_that_nobody_knows_is_ignored(rig: Rig) -> None:
    rig.finish(99)
    assert rig.sent == []
    assert rig.told == []


def test_switched_off_everything_passes_untouched(tmp_path: Path) -> None:
    rig = Rig(tmp_path, enabled=False)
    rig.conversions.start()
    assert rig.take("1", a=WASM) == told("sotw", "1", a=WASM).spans.data
    assert rig.context.counters == {}
    assert rig.context.timers == []


def test_the_cache_is_looked_through_after_each_interval_if_there_is_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path, purge_interval_s=60.0)
    woken: list[object] = []
    rig.context.deliver = woken.append
    rig.conversions.start()
    rig.context.advance(61)
    assert woken == [PurgeDue()]
    rig.conversions.purge()
    assert rig.context.started == []
    (tmp_path / LOCK).touch()
    rig.take("1", a=PLAIN)
    rig.context.advance(61)
    rig.conversions.purge()
    assert [kind for _, kind, _ in rig.context.started] == [PURGE]
    done = WorkerFinished(worker_id=1, kind=PURGE, result=encode(PurgeAnswer(cache_entries=2)), error="")
    rig.conversions.finished(done)
    assert rig.context.counters["wasm_cache_entries"] == 2
    rig.conversions.finished(WorkerFinished(worker_id=2, kind=PURGE, result=None, error="killed by signal 9"))


def in_use(rig: Rig) -> list[str]:
    """Return the files that a purge would be told to keep."""
    Path(rig.conversions._options.directory, LOCK).touch()
    rig.conversions.purge()
    _, kind, request = rig.context.started.pop()
    assert kind == PURGE
    return msgspec.msgpack.decode(request, type=PurgeRequest).in_use


def test_what_envoy_was_given_last_is_kept_from_the_purge(rig: Rig) -> None:
    rig.take("1", a=WASM, b=WASM)
    assert in_use(rig) == []
    rig.finish(1, files={"a": "/1", "b": "/2"})
    assert in_use(rig) == ["/1", "/2"]
    rig.take("2", a=WASM)  # in SotW that is all there is
    rig.finish(2, files={"a": "/3"})
    assert in_use(rig) == ["/3"]


def test_what_an_ended_stream_was_given_is_kept_until_istiod_tells_another(rig: Rig) -> None:
    rig.take("1", a=WASM)
    rig.finish(1, files={"a": "/1"})
    rig.conversions.closed(lambda stream: stream == STREAM)
    assert in_use(rig) == ["/1"]
    rig.take("1", stream=OTHER, a=WASM)
    assert in_use(rig) == ["/1"]
    rig.finish(2, files={"a": "/2"})
    assert in_use(rig) == ["/2"]


def test_nothing_is_purged_before_istiod_was_heard(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    rig.conversions.purge()
    assert rig.context.started == []
    rig.take("1", a=PLAIN)
    rig.conversions.purge()
    assert [kind for _, kind, _ in rig.context.started] == [PURGE]


def test_in_delta_a_file_is_in_use_until_its_resource_is_removed(rig: Rig) -> None:
    first = told("delta", "1", a=WASM, b=WASM)
    rig.conversions.take(STREAM, "delta", 1, first)
    rig.finish(1, body=first.spans.data, files={"a": "/1", "b": "/2"})
    removed = response("delta", ECDS, "2")
    removed.removed_resources.append("a")
    rig.conversions.take(STREAM, "delta", 1, read_delta_response(removed.SerializeToString()))
    assert in_use(rig) == ["/2"]


def last_good(rig: Rig) -> dict[str, Good]:
    """Return what the newest worker was told to fall back on."""
    _, kind, request = rig.context.started[-1]
    assert kind == REWRITE
    return msgspec.msgpack.decode(request, type=RewriteRequest).last_good


def standing(rig: Rig) -> float:
    return rig.context.counters["wasm_last_known_good_serving"]


GOOD = Good(b"good a", "/1")


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_filter_that_was_delivered_is_what_the_next_conversion_may_fall_back_on(
    rig: Rig, variant: Any
) -> None:
    first = told(variant, "1", a=WASM, b=WASM)
    rig.conversions.take(STREAM, variant, 1, first)
    assert last_good(rig) == {}
    rig.finish(1, body=first.spans.data, files={"a": "/1"})
    assert rig.kept == [{"a": GOOD}]
    rig.conversions.take(STREAM, variant, 1, told(variant, "2", a=WASM))
    assert last_good(rig) == {"a": GOOD}
    rig.finish(2, body=told(variant, "2", a=WASM).spans.data, stale=("a",))
    assert standing(rig) == 1
    rig.conversions.take(OTHER, variant, 1, told(variant, "1", a=WASM))
    assert last_good(rig) == {"a": GOOD}, "an Envoy that comes later gets it as well"
    assert in_use(rig) == ["/1"]
    rig.finish(3, body=told(variant, "1", a=WASM).spans.data, files={"a": "/2"})
    assert standing(rig) == 0
    assert rig.kept[-1] == {"a": Good(b"good a", "/2")}


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_what_was_overtaken_or_rejected_or_allows_and_denies_all_is_no_last_good_filter(
    rig: Rig, variant: Any
) -> None:
    body = told(variant, "1", a=WASM).spans.data
    rig.conversions.take(STREAM, variant, 1, told(variant, "1", a=WASM))
    assert rig.conversions.take(STREAM, variant, 1, told(variant, "2", a=PLAIN)) is not None
    rig.finish(1, body=body, files={"a": "/1"})
    rig.conversions.take(STREAM, variant, 1, told(variant, "3", a=WASM))
    rig.finish(2, body=b"", rejected="no good")
    rig.conversions.take(STREAM, variant, 1, told(variant, "4", a=WASM))
    rig.finish(3, body=body)
    assert rig.kept == []


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_name_that_is_removed_or_fetches_nothing_any_more_has_no_last_good_filter(
    tmp_path: Path, variant: Any
) -> None:
    known = {"a": GOOD, "b": GOOD}
    rig = Rig(tmp_path, known=known)
    assert rig.conversions.take(STREAM, variant, 1, told(variant, "1", a=PLAIN, b=WASM)) is None
    assert last_good(rig) == known, "nothing has gone to Envoy yet"
    rig.finish(1, body=told(variant, "1", a=PLAIN, b=WASM).spans.data, stale=("b",))
    assert rig.kept == [{"b": GOOD}]
    message = response(variant, ECDS, "2")
    if variant == "delta":
        message.removed_resources.append("b")
    read: Any = read_sotw_response if variant == "sotw" else read_delta_response
    assert rig.conversions.take(STREAM, variant, 1, read(message.SerializeToString())) is not None
    assert rig.kept[-1] == {}
    assert standing(rig) == 0


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_what_envoy_rejects_is_told_to_the_next_envoys_conversion(tmp_path: Path, variant: Any) -> None:
    rig = Rig(tmp_path, known={"a": Good(b"before", "/0")})
    body = told(variant, "n1", a=WASM).spans.data
    rig.conversions.take(STREAM, variant, 1, told(variant, "n1", a=WASM))
    rig.finish(1, body=body, files={"a": "/1"})
    read: Any = read_sotw_request if variant == "sotw" else read_delta_request
    for nonce, error in (("", ""), ("n0", "no"), ("n1", "no")):
        said = ack(variant, response(variant, ECDS, nonce), "a", error=error)
        rig.conversions.judged(STREAM, read(said.SerializeToString()))
    assert rig.kept == [{"a": GOOD}, {"a": Good(b"before", "/0", b"good a")}]
    rig.conversions.take(OTHER, variant, 1, told(variant, "n1", a=WASM))
    assert last_good(rig) == rig.kept[-1]
    rig.conversions.take(STREAM, variant, 1, told(variant, "n2", a=WASM))
    assert last_good(rig) == {"a": Good(b"before", "/0")}


def test_the_last_good_filter_is_not_offered_where_that_was_switched_off(tmp_path: Path) -> None:
    rig = Rig(tmp_path, known={"a": GOOD}, keeps_last_good=False)
    rig.take("1", a=WASM)
    assert last_good(rig) == {}
