"""One stream's dealings with the store: kept from the newest Envoy, answered while istiod was never heard."""

import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pilot_agent.xds.envelope import read_delta_request, read_delta_response
from pilot_agent.xds.known_good import stream as stream_module
from pilot_agent.xds.known_good.files import compact
from pilot_agent.xds.known_good.stores import Stores
from pilot_agent.xds.known_good.stream import KnownGood
from pilot_agent.xds.options import LastKnownGood
from pilot_agent.xds.states import States
from tests.support.fake_istiod import RESPONSE_TYPES
from tests.support.said import Said
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, EDS, LDS, ack, request, response


class Outside:
    """Where metrics, compactions and the note of stale streams go."""

    def __init__(self, directory: Path) -> None:
        self.options = LastKnownGood(directory=str(directory), owner=("istiod:15012",))
        self.gauges: dict[str, float] = {}
        self.counts: list[tuple[str, str]] = []
        self.stale: frozenset[str] = frozenset()

    def stores(self, **more: Any) -> Stores:
        return Stores(
            self.options,
            compact=lambda *_: None,
            gauge=self.gauges.__setitem__,
            count=lambda name, **labels: self.counts.append((name, labels["type"])),
            stale_changed=lambda names: setattr(self, "stale", names),
            **more,
        )


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path / "store")


def opened(stores: Stores, generation: int = 0) -> KnownGood:
    made = stores.for_stream(variant="delta", generation=generation, name=f"g{generation}")
    made.begin_leg()
    return made


def envoy_accepts(known_good: KnownGood, name: str, *, first: bool = True) -> None:
    if first:
        known_good.request(read_delta_request(request("delta", CDS, node="n").SerializeToString()))
    resources = {name: b"x"}
    pushed = response("delta", CDS, f"nonce-{name}", "1", **resources)
    known_good.response(read_delta_response(pushed.SerializeToString()))
    known_good.request(read_delta_request(ack("delta", pushed).SerializeToString()))


class Pipes:
    """A leg whose other end is the test."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.responses: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive(self) -> bytes | None:
        return self.requests.get()

    def send(self, response: bytes) -> bool:
        self.responses.put(response)
        return True

    def end(self) -> None:
        self.requests.put(None)


def names_in(body: bytes) -> set[bytes]:
    return set(read_delta_response(body).versions())


def test_the_next_life_is_answered_with_what_this_one_accepted(outside: Outside) -> None:
    stores = outside.stores()
    envoy_accepts(opened(stores), "a")
    stores.flush(10)

    again = opened(outside.stores())
    assert not again.can_answer  # nobody said which node it is
    pipes = Pipes()
    pipes.requests.put(request("delta", CDS, node="n").SerializeToString())
    thread = threading.Thread(
        target=again.serve, args=(pipes,), kwargs={"at_least_s": 0.0, "states": States()}
    )
    thread.start()
    assert names_in(pipes.responses.get(timeout=10)) == {b"a"}
    assert again.can_answer
    assert outside.gauges["xds_last_known_good_serving"] == 1
    assert 0 <= time.time() - outside.gauges["xds_last_known_good_written_unix_s"] < 60
    assert outside.counts == [("xds_last_known_good_responses", "CDS")]
    assert outside.stale == {"g0"}
    pipes.end()
    thread.join(10)

    again.answered()
    assert again.can_answer, "Envoy has no listeners yet"
    again.response(read_delta_response(response("delta", LDS, "l").SerializeToString()))
    assert not again.can_answer
    assert outside.gauges["xds_last_known_good_serving"] == 0
    assert outside.stale == frozenset()


def test_a_leg_to_the_store_ends_when_envoy_has_been_quiet(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_LEG_S", 0.05)
    monkeypatch.setattr(stream_module, "_QUIET_S", 0.05)
    pipes = Pipes()
    pipes.requests.put(request("delta", CDS, node="n").SerializeToString())
    opened(outside.stores()).serve(pipes, at_least_s=0.0, states=States())
    assert pipes.responses.empty()


def test_another_nodes_store_is_none(outside: Outside) -> None:
    stores = outside.stores()
    envoy_accepts(opened(stores), "a")
    stores.flush(10)
    stranger = opened(outside.stores())
    stranger.request(read_delta_request(request("delta", CDS, node="another").SerializeToString()))
    assert not stranger.can_answer


def kept(outside: Outside) -> set[bytes]:
    content = outside.stores().store("delta", "n").content(CDS)
    return set() if content is None else set(content.resources)


def test_what_the_newest_envoy_accepts_is_kept_and_no_older_ones(outside: Outside) -> None:
    stores = outside.stores()
    older = opened(stores, 1)
    envoy_accepts(older, "older")
    stores.flush(10)
    newer = opened(stores, 2)
    envoy_accepts(older, "late", first=False)
    stores.flush(10)
    assert kept(outside) == {b"older"}
    envoy_accepts(newer, "newer")
    stores.flush(10)
    assert kept(outside) == {b"newer"}


def test_a_successor_of_a_killed_process_knows_who_stands_on_the_store(outside: Outside) -> None:
    stores = outside.stores(stale=frozenset({"g0", "gone"}))
    assert outside.gauges["xds_last_known_good_serving"] == 2
    stores.hold(frozenset({"g0", "g1"}))
    assert outside.stale == {"g0"}
    opened(stores).answered()
    assert outside.gauges["xds_last_known_good_serving"] == 0


def test_the_first_answer_is_waited_for_as_long_as_the_grace_and_later_ones_longer(outside: Outside) -> None:
    cold = opened(outside.stores())
    assert 0.0 < cold.patience_s(1) <= 1.0
    assert 0.0 < cold.patience_s(2) <= 1.0
    cold._began_s -= 1.0
    assert cold.grace_left_s == 0.0
    assert [cold.patience_s(leg) for leg in (4, 6, 8)] == [10.0, 20.0, 40.0]


def test_a_resumed_stream_is_waited_for_longer_from_the_start(outside: Outside) -> None:
    assert opened(outside.stores()).patience_s(5) == 10.0


def test_a_compactions_result_finds_its_store(outside: Outside) -> None:
    asked: list[tuple[str, bytes]] = []
    stores = Stores(
        outside.options,
        compact=lambda key, body: asked.append((key, body)),
        gauge=lambda *_: None,
        count=lambda *_, **__: None,
    )
    known_good = opened(stores)
    envoy_accepts(known_good, "a")
    for number in range(3):
        pushed = response("delta", CDS, f"big-{number}", b=b"x" * 600_000)
        known_good.response(read_delta_response(pushed.SerializeToString()))
        known_good.request(read_delta_request(ack("delta", pushed).SerializeToString()))
    stores.flush(10)
    ((key, body),) = asked
    before = stores.store("delta", "n")._files[CDS].size
    stores.compacted(key, compact(body))
    stores.flush(10)
    assert stores.store("delta", "n")._files[CDS].size < before
    assert kept(outside) == {b"a", b"b"}
    assert EDS not in stores.store("delta", "n")._files


def test_an_envoy_that_rejects_what_another_accepted_is_told_in_the_log(outside: Outside) -> None:
    stores = outside.stores()
    envoy_accepts(opened(stores), "a")
    stores.flush(10)
    pipes = Pipes()
    pipes.requests.put(request("delta", CDS, node="n").SerializeToString())
    serving = threading.Thread(
        target=opened(outside.stores()).serve, args=(pipes,), kwargs={"at_least_s": 0.0, "states": States()}
    )
    serving.start()
    served = RESPONSE_TYPES["delta"].FromString(pipes.responses.get(timeout=10))
    said = Said()
    pipes.requests.put(ack("delta", served, error="unknown field").SerializeToString())
    told = "Envoy rejects the last known good configuration: unknown field"
    wait_for(lambda: told in said, what="the warning")
    pipes.end()
    serving.join(10)
