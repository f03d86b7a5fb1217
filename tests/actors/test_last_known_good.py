"""The xDS path's two halves with a store: kept while istiod is there, served while it is not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from actors.messages.xds import ShowStreams, StreamsShown
from actors.runtime.roles import Role
from pilot_agent.xds.options import LastKnownGood
from pilot_agent.xds.states import StreamShown
from tests.support.fake_istiod import FakeIstiod
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, EDS, LDS, RDS, ack, asked, request, response
from tests.support.xds_model import content
from tests.support.xds_pair import XdsPair, plaintext_options

VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])


@pytest.fixture
def istiod() -> Iterator[FakeIstiod]:
    server = FakeIstiod().start()
    yield server
    server.kill()


class Lives:
    """One agent after the other on the same disk."""

    def __init__(self, directory: Path, istiod: FakeIstiod) -> None:
        self._directory, self._istiod = directory, istiod
        self._pair: XdsPair | None = None

    def begin(self, **changes: Any) -> XdsPair:
        self.end()
        store = LastKnownGood(directory=str(self._directory / "store"), owner=("istiod",), grace_s=0.2)
        options = {"last_known_good": store} | changes
        self._pair = XdsPair(plaintext_options(self._directory, self._istiod.address, **options))
        return self._pair

    def end(self) -> None:
        if self._pair is not None:
            self._pair.close()
            self._pair = None


@pytest.fixture
def lives(tmp_path: Path, istiod: FakeIstiod) -> Iterator[Lives]:
    made = Lives(tmp_path, istiod)
    yield made
    made.end()


def pushed(variant: str, type_url: str, nonce: str, version: str, **values: bytes) -> Any:
    resources = {name: content(name, value) for name, value in values.items()}
    return response(variant, type_url, nonce, version, **resources)


def names_of(variant: str, message: Any) -> list[str]:
    if variant == "delta":
        return [one.name for one in message.resources]
    return [one.value[2 : 2 + one.value[1]].decode() for one in message.resources]


def a_life_with_istiod(pair: XdsPair, istiod: FakeIstiod, variant: str) -> None:
    """Let Envoy accept clusters a and b and reject c; then accept endpoints."""
    envoy = pair.envoy(variant)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    stream.receive()
    for number, (values, error) in enumerate([({"a": b"1", "b": b"1"}, ""), ({"c": b"1"}, "bad")]):
        stream.send(pushed(variant, CDS, f"c{number}", str(number), **values))
        envoy.send(ack(variant, envoy.receive(), error=error))
        stream.receive()
    envoy.send(request(variant, EDS, "x"))
    stream.receive()
    stream.send(pushed(variant, EDS, "e", "5", x=b"1"))
    envoy.send(ack(variant, envoy.receive(), "x"))
    stream.receive()
    envoy.send(request(variant, RDS, "nothing"))
    stream.receive()  # what came before is noted, too: that follows its sending


def shown(pair: XdsPair) -> list[StreamShown]:
    before = pair.others.qsize()
    pair.refs[Role.UPSTREAM_XDS].tell(ShowStreams(number=7))
    wait_for(lambda: pair.others.qsize() > before, what="an answer")
    while True:
        to, message = pair.others.get(timeout=5)
        if isinstance(message, StreamsShown):
            assert (to, message.number) == (Role.HEALTH, 7)
            return msgspec.json.decode(message.body, type=list[StreamShown])


@VARIANTS
def test_a_cold_start_without_istiod_is_served_what_was_accepted_and_goes_on_when_istiod_answers(
    lives: Lives, istiod: FakeIstiod, variant: str
) -> None:
    a_life_with_istiod(lives.begin(), istiod, variant)
    lives.end()
    istiod.kill()
    pair = lives.begin()
    envoy = pair.envoy(variant)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    served = envoy.receive()
    assert names_of(variant, served) == ["a", "b"]
    envoy.send(ack(variant, served))
    envoy.send(request(variant, EDS, "x", "y"))
    endpoints = envoy.receive()
    assert names_of(variant, endpoints) == ["x"]
    envoy.send(ack(variant, endpoints, "x", "y"))
    assert pair.upstream.counters["xds_last_known_good_serving"] == 1
    assert pair.upstream.counters["xds_last_known_good_responses,type=CDS"] == 1
    (stream_shown,) = shown(pair)
    assert (stream_shown.source, {one.state for one in stream_shown.types}) == ("last known good", {"stale"})

    istiod.start()
    stream = istiod.next_stream(30)
    first, second = stream.receive(), stream.receive()
    assert (first.type_url, first.node.id, first.response_nonce) == (CDS, "sidecar~1", "")
    assert (second.type_url, sorted(asked(second))) == (EDS, ["x", "y"])
    if variant == "delta":
        assert dict(first.initial_resource_versions) == {"a": "0", "b": "0"}
        assert dict(second.initial_resource_versions) == {"x": "5"}
    else:
        assert first.version_info == "0"
    stream.send(pushed(variant, CDS, "live", "9", a=b"2"))
    assert envoy.receive().nonce == "live"
    wait_for(lambda: pair.upstream.counters["xds_last_known_good_serving"] == 0, what="being live")


@VARIANTS
def test_an_istiod_that_goes_away_before_it_has_told_of_listeners_is_completed_from_the_store(
    lives: Lives, istiod: FakeIstiod, variant: str
) -> None:
    envoy = lives.begin().envoy(variant)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    for type_url, nonce in ((CDS, "c"), (LDS, "l")):
        assert stream.receive().type_url == type_url
        stream.send(pushed(variant, type_url, nonce, "1", old=b"1"))
        envoy.send(ack(variant, envoy.receive()))
        assert stream.receive().response_nonce == nonce
        if type_url == CDS:
            envoy.send(request(variant, LDS))
    pair = lives.begin()
    envoy = pair.envoy(variant)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    stream.receive()
    stream.send(pushed(variant, CDS, "c", "2", new=b"1"))
    assert names_of(variant, envoy.receive()) == ["new"]
    envoy.send(ack(variant, pushed(variant, CDS, "c", "2")))
    stream.receive()
    istiod.kill()
    envoy.send(request(variant, LDS))
    served = envoy.receive()
    assert (served.type_url, names_of(variant, served)) == (LDS, ["old"])
    envoy.send(ack(variant, served))

    istiod.start()
    stream = istiod.next_stream(30)
    first, second = stream.receive(), stream.receive()
    claimed = (
        [first.initial_resource_versions, second.initial_resource_versions] if variant == "delta" else []
    )
    assert [dict(one) for one in claimed] in ([{"new": "2"}, {"old": "1"}], [])
    stream.send(pushed(variant, LDS, "l2", "2", new=b"1"))
    assert names_of(variant, envoy.receive()) == ["new"]
    wait_for(lambda: pair.upstream.counters["xds_last_known_good_serving"] == 0, what="being live")


@VARIANTS
def test_a_silent_istiod_is_given_up_for_the_store_and_then_waited_for_longer(
    lives: Lives, istiod: FakeIstiod, variant: str
) -> None:
    a_life_with_istiod(lives.begin(), istiod, variant)
    pair = lives.begin()
    envoy = pair.envoy(variant)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    silent = istiod.next_stream()
    served = envoy.receive()
    assert served.nonce.startswith("last-known-good/")
    silent.wait_for_end()
    envoy.send(ack(variant, served))

    late = istiod.next_stream(30)
    assert late.receive().type_url == CDS
    late.send(pushed(variant, CDS, "live", "9", a=b"2"))
    assert envoy.receive().nonce == "live"


def test_a_silent_istiod_is_waited_for_where_nothing_is_kept(lives: Lives, istiod: FakeIstiod) -> None:
    envoy = lives.begin().envoy()
    envoy.send(request("delta", CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    assert stream.receive().type_url == CDS
    assert stream.is_quiet(0.6)  # three times the grace, and the stream is still open
    stream.send(pushed("delta", CDS, "live", "9", a=b"2"))
    assert envoy.receive().nonce == "live"
    assert istiod.opened == 1


def test_another_node_and_a_store_that_is_turned_off_are_not_served(lives: Lives, istiod: FakeIstiod) -> None:
    a_life_with_istiod(lives.begin(), istiod, "delta")
    lives.end()
    istiod.kill()
    for node, changes in (("sidecar~2", {}), ("sidecar~1", {"last_known_good": None})):
        pair = lives.begin(**changes)
        envoy = pair.envoy()
        envoy.send(request("delta", CDS, node=node))
        wait_for(
            lambda: pair.upstream.counters.get("istiod_connection_terminations,type=error", 0) >= 2,  # noqa: B023
            what="two failed attempts",
        )
        assert envoy._inbox.empty()


def test_a_killed_upstream_half_goes_on_serving_and_knows_that_it_is_stale(
    lives: Lives, istiod: FakeIstiod
) -> None:
    a_life_with_istiod(lives.begin(), istiod, "delta")
    lives.end()
    istiod.kill()
    pair = lives.begin()
    envoy = pair.envoy()
    envoy.send(request("delta", CDS, node="sidecar~1"))
    envoy.send(ack("delta", envoy.receive()))
    pair.restart(Role.UPSTREAM_XDS)
    wait_for(lambda: pair.upstream.counters.get("xds_last_known_good_serving") == 1, what="knowing it")
    envoy.send(request("delta", EDS, "x"))
    assert names_of("delta", envoy.receive()) == ["x"]


@VARIANTS
def test_an_istiod_that_refuses_to_resume_ends_envoys_stream_so_that_it_starts_afresh(
    lives: Lives, istiod: FakeIstiod, variant: str
) -> None:
    pair = lives.begin()
    envoy = pair.envoy(variant)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    stream.send(pushed(variant, CDS, "n", "1", a=b"1"))
    envoy.send(ack(variant, envoy.receive()))
    stream.end(grpc.StatusCode.UNAVAILABLE, "restarting")
    again = istiod.next_stream()
    assert again.receive().type_url == CDS
    again.end(grpc.StatusCode.INVALID_ARGUMENT, "unknown resource versions")
    assert envoy.wait_for_end() == (grpc.StatusCode.INVALID_ARGUMENT, "unknown resource versions")

    afresh = pair.envoy(variant)
    afresh.send(request(variant, CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    assert stream.receive().type_url == CDS
    stream.end(grpc.StatusCode.INVALID_ARGUMENT, "still")  # no resumption: it is tried again
    assert istiod.next_stream().receive().type_url == CDS


@VARIANTS
def test_the_state_of_each_type_is_told_on_request(lives: Lives, istiod: FakeIstiod, variant: str) -> None:
    pair = lives.begin()
    envoy = pair.envoy(variant, generation=3)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    stream.receive()
    stream.send(pushed(variant, CDS, "n", "1", a=b"1"))
    envoy.send(ack(variant, envoy.receive(), error="no such filter"))
    stream.receive()
    envoy.send(request(variant, LDS))
    stream.receive()
    (told,) = shown(pair)
    assert (told.variant, told.generation, told.leg, told.source) == (variant, 3, 1, "istiod")
    clusters, listeners = told.types
    assert (clusters.type_url, clusters.state, clusters.answer) == (CDS, "live", "nack")
    assert (clusters.nonce, clusters.error, clusters.wildcard) == ("n", "no such filter", True)
    assert (listeners.type_url, listeners.state) == (LDS, "waiting")
