"""The record of a delta stream, tried against a model Envoy and a model istiod over many lost streams."""

from dataclasses import dataclass, field

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.wire import WireError
from pilot_agent.xds.delta import DeltaSubscriptions
from tests.support.xds_messages import CDS, EDS, LDS, ack, request, response

NAMES = ["a", "b", "c", "d"]


def test_the_first_leg_passes_every_byte_as_it_is() -> None:
    record = DeltaSubscriptions()
    assert record.next_leg() == []
    for message in (
        request("delta", CDS, node="n"),
        request("delta", CDS, nonce="never-seen"),
        request("delta", EDS, "a", nonce="x"),
    ):
        body = message.SerializeToString()
        assert record.request(body) is body


def test_a_new_leg_names_the_node_once_and_the_types_in_the_order_of_asking() -> None:
    record = DeltaSubscriptions()
    record.next_leg()
    for message in (
        request("delta", CDS, node="n"),
        request("delta", EDS, "a", "b"),
        request("delta", LDS, "*", "x"),
    ):
        record.request(message.SerializeToString())
    replayed = [pb.DeltaDiscoveryRequest.FromString(body) for body in record.next_leg()]
    assert [each.type_url for each in replayed] == [CDS, EDS, LDS]
    assert [list(each.resource_names_subscribe) for each in replayed] == [[], ["a", "b"], ["*", "x"]]
    assert [each.node.id for each in replayed] == ["n", "", ""]


def test_a_type_whose_names_are_all_unsubscribed_is_not_asked_for_again_and_the_node_still_comes() -> None:
    record = DeltaSubscriptions()
    record.next_leg()
    record.request(request("delta", EDS, "a", node="n").SerializeToString())
    record.request(
        request("delta", EDS, resource_names_unsubscribe=["a"]).SerializeToString(),
    )
    assert record.next_leg() == []
    forwarded = record.request(request("delta", EDS, "b").SerializeToString())
    assert forwarded is not None
    assert pb.DeltaDiscoveryRequest.FromString(forwarded).node.id == "n"


def test_what_a_reconnecting_envoy_says_it_holds_is_remembered() -> None:
    record = DeltaSubscriptions()
    record.next_leg()
    record.request(
        request("delta", CDS, node="n", initial_resource_versions={"a": "1", "b": ""}).SerializeToString()
    )
    (replayed,) = record.next_leg()
    assert pb.DeltaDiscoveryRequest.FromString(replayed).initial_resource_versions == {"a": "1", "b": ""}


def test_what_a_rejected_response_removed_may_be_gone_so_its_version_is_not_claimed() -> None:
    record = DeltaSubscriptions()
    record.next_leg()
    record.request(request("delta", CDS, node="n").SerializeToString())
    for pushed, error in ((response("delta", CDS, "1", "1", a=b"", b=b""), ""), (removing("2", "a"), "bad")):
        record.response(pushed.SerializeToString())
        record.request(ack("delta", pushed, error=error).SerializeToString())
    (replayed,) = record.next_leg()
    assert pb.DeltaDiscoveryRequest.FromString(replayed).initial_resource_versions == {"a": "", "b": "1"}


def removing(nonce: str, *names: str) -> pb.DeltaDiscoveryResponse:
    return pb.DeltaDiscoveryResponse(type_url=CDS, nonce=nonce, removed_resources=names)


def test_malformed_bytes_are_refused() -> None:
    with pytest.raises(WireError):
        DeltaSubscriptions().request(b"\xff")
    with pytest.raises(WireError):
        DeltaSubscriptions().response(b"\xff")


@dataclass
class Envoy:
    """What Envoy subscribes to and holds of one type."""

    names: set[str]
    wildcard: bool
    held: dict[str, str] = field(default_factory=dict)
    unanswered: list[pb.DeltaDiscoveryResponse] = field(default_factory=list)

    def applies(self, answered: pb.DeltaDiscoveryResponse, *, first_only: bool) -> None:
        for each in list(answered.resources)[: 1 if first_only else None]:
            if self.wildcard or each.name in self.names:
                self.held[each.name] = each.version
        if not first_only:
            for name in answered.removed_resources:
                self.held.pop(name, None)


@dataclass
class Istiod:
    """What one upstream stream was told."""

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    is_told: bool = False

    def told(self, message: pb.DeltaDiscoveryRequest) -> None:
        subscribed = set(message.resource_names_subscribe)
        if not self.is_told:
            self.wildcard = not subscribed
            self.is_told = True
        if "*" in subscribed:
            self.wildcard = True
        self.names |= subscribed - {"*"}
        self.names -= set(message.resource_names_unsubscribe)
        if "*" in message.resource_names_unsubscribe:
            self.wildcard = False


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), st.lists(st.sampled_from(NAMES), min_size=1, unique=True)),
        st.tuples(st.just("unsubscribe"), st.lists(st.sampled_from(NAMES), min_size=1, unique=True)),
        st.tuples(st.just("push"), st.lists(st.sampled_from(NAMES), min_size=1, unique=True)),
        st.tuples(st.just("remove"), st.lists(st.sampled_from(NAMES), min_size=1, unique=True)),
        st.tuples(st.just("ack"), st.just([])),
        st.tuples(st.just("nack"), st.just([])),
        st.tuples(st.just("lose"), st.just([])),
    ),
    max_size=30,
)


@settings(max_examples=500, deadline=None)
@given(first=st.sampled_from([[], ["*"], ["a"], ["a", "b"], ["*", "c"]]), events=EVENTS)
def test_after_any_history_a_new_leg_knows_what_envoy_wants_and_all_that_it_may_hold(
    first: list[str], events: list[tuple[str, list[str]]]
) -> None:
    record, version, leg_nonces = DeltaSubscriptions(), 0, set[str]()
    record.next_leg()
    envoy = Envoy({*first} - {"*"}, wildcard=not first or "*" in first)
    istiod = Istiod()

    def forward(message: pb.DeltaDiscoveryRequest) -> None:
        forwarded = record.request(message.SerializeToString())
        if forwarded is not None:
            seen = pb.DeltaDiscoveryRequest.FromString(forwarded)
            assert not seen.response_nonce or seen.response_nonce in leg_nonces
            istiod.told(seen)
        if envoy.names or envoy.wildcard or istiod.is_told:
            assert (istiod.names, istiod.wildcard) == (envoy.names, envoy.wildcard)

    forward(request("delta", EDS, *first, node="n"))
    for kind, names in events:
        if kind == "subscribe":
            envoy.names |= set(names)
            forward(request("delta", EDS, *names))
        elif kind == "unsubscribe":
            envoy.names -= set(names)
            if not envoy.wildcard:
                envoy.held = {name: held for name, held in envoy.held.items() if name not in names}
            forward(request("delta", EDS, resource_names_unsubscribe=names))
        elif kind in ("push", "remove"):
            version += 1
            pushed = response("delta", EDS, f"nonce-{version}", str(version))
            if kind == "push":
                pushed = response("delta", EDS, f"nonce-{version}", str(version), **dict.fromkeys(names, b""))
            else:
                pushed.removed_resources.extend(names)
            leg_nonces.add(pushed.nonce)
            record.response(pushed.SerializeToString())
            envoy.unanswered.append(pushed)
        elif kind in ("ack", "nack") and envoy.unanswered:
            answered = envoy.unanswered.pop(0)
            envoy.applies(answered, first_only=kind == "nack")
            forward(ack("delta", answered, error="bad" if kind == "nack" else ""))
        elif kind == "lose":
            istiod, leg_nonces = Istiod(), set()
            _check_replay(record.next_leg(), envoy, istiod)


def _check_replay(replayed: list[bytes], envoy: Envoy, istiod: Istiod) -> None:
    assert len(replayed) == (1 if envoy.wildcard or envoy.names else 0)
    for body in replayed:
        seen = pb.DeltaDiscoveryRequest.FromString(body)
        assert (seen.node.id, seen.response_nonce) == ("n", "")
        istiod.told(seen)
        assert (istiod.names, istiod.wildcard) == (envoy.names, envoy.wildcard)
        claimed = dict(seen.initial_resource_versions)
        assert set(envoy.held) <= set(claimed)
        assert envoy.wildcard or set(claimed) <= envoy.names
        assert {name: held for name, held in claimed.items() if held}.items() <= envoy.held.items()
