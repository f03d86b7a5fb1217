"""The record of a state-of-the-world stream, tried against a model over many lost streams."""

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.wire import WireError
from pilot_agent.xds.sotw import SotwSubscriptions
from tests.support.xds_messages import CDS, EDS, LDS, ack, request, response

NAMES = ["a", "b", "c"]


def test_the_first_leg_passes_every_byte_as_it_is() -> None:
    record = SotwSubscriptions()
    assert record.next_leg() == []
    for message in (
        request("sotw", CDS, node="n"),
        request("sotw", CDS, nonce="never-seen", version_info="9"),
        request("sotw", EDS, "a", nonce="x"),
    ):
        body = message.SerializeToString()
        assert record.request(body) is body


def test_a_new_leg_has_the_node_once_no_version_and_no_nonce_and_keeps_unknown_fields() -> None:
    record, unknown_field = SotwSubscriptions(), b"\xba\x3e\x03abc"
    record.next_leg()
    record.request(request("sotw", CDS, node="n", version_info="3", nonce="x").SerializeToString())
    record.request(request("sotw", EDS, "a", nonce="y").SerializeToString() + unknown_field)
    first, second = record.next_leg()
    assert pb.DiscoveryRequest.FromString(first) == request("sotw", CDS, node="n")
    assert second == request("sotw", EDS, "a").SerializeToString() + unknown_field


def test_names_taken_back_mean_unsubscribed_and_are_not_asked_for_as_everything() -> None:
    record = SotwSubscriptions()
    record.next_leg()
    record.request(request("sotw", EDS, "a", node="n").SerializeToString())
    record.request(request("sotw", EDS).SerializeToString())
    assert record.next_leg() == []
    forwarded = record.request(request("sotw", LDS).SerializeToString())
    assert forwarded is not None
    assert pb.DiscoveryRequest.FromString(forwarded).node.id == "n"


def test_the_last_accepted_version_is_kept_and_a_rejected_one_is_not() -> None:
    record = SotwSubscriptions()
    record.next_leg()
    record.request(request("sotw", CDS, node="n").SerializeToString())
    for version, error in (("1", ""), ("2", "bad")):
        pushed = response("sotw", CDS, f"n{version}", version)
        record.response(pushed.SerializeToString())
        record.request(ack("sotw", pushed, error=error).SerializeToString())
    assert record.types[CDS].version_info == "1"


def test_malformed_bytes_are_refused() -> None:
    with pytest.raises(WireError):
        SotwSubscriptions().request(b"\xff")
    with pytest.raises(WireError):
        SotwSubscriptions().response(b"\xff")


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(st.sampled_from(NAMES), unique=True)),
        st.tuples(st.just("push"), st.just([])),
        st.tuples(st.sampled_from(["ack", "nack"]), st.lists(st.sampled_from(NAMES), max_size=1)),
        st.tuples(st.just("lose"), st.just([])),
    ),
    max_size=30,
)


@settings(max_examples=500, deadline=None)
@given(events=EVENTS)
def test_after_any_history_istiod_knows_envoys_names_and_no_nonce_of_another_stream(
    events: list[tuple[str, list[str]]],
) -> None:
    record, version, nonces = SotwSubscriptions(), 0, set[str]()
    record.next_leg()
    told_before = False
    wanted, told, unanswered, last_nonce = ["a"], ["a"], list[pb.DiscoveryResponse](), ""

    def forward(message: pb.DiscoveryRequest) -> None:
        nonlocal told, told_before
        forwarded = record.request(message.SerializeToString())
        if forwarded is not None:
            seen = pb.DiscoveryRequest.FromString(forwarded)
            assert not seen.response_nonce or seen.response_nonce in nonces
            told = list(seen.resource_names)
            assert told or told_before, "without a name, the first request of a leg means everything"
            told_before = True
        assert told == wanted

    forward(request("sotw", EDS, "a", node="n"))
    for kind, names in events:
        if kind == "ask":
            wanted = names
            forward(request("sotw", EDS, *wanted, nonce=last_nonce))
        elif kind == "push":
            version += 1
            pushed = response("sotw", EDS, f"nonce-{version}", str(version))
            nonces.add(pushed.nonce)
            record.response(pushed.SerializeToString())
            unanswered.append(pushed)
        elif kind in ("ack", "nack") and unanswered:
            answered = unanswered.pop(0)
            wanted, last_nonce = names or wanted, answered.nonce
            forward(ack("sotw", answered, *wanted, error="bad" if kind == "nack" else ""))
        elif kind == "lose":
            nonces = set()
            replayed = [pb.DiscoveryRequest.FromString(body) for body in record.next_leg()]
            assert replayed == ([request("sotw", EDS, *wanted, node="n")] if wanted else [])
            told, told_before = list(wanted), bool(wanted)
