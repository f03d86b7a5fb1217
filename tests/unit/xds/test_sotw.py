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


def test_a_new_leg_has_the_node_once_and_no_nonce_and_keeps_unknown_fields() -> None:
    record, unknown_field = SotwSubscriptions(), b"\xba\x3e\x03abc"
    record.next_leg()
    record.request(request("sotw", CDS, node="n", nonce="x").SerializeToString())
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


class Stream:
    """One type of one stream, told in a few words; `claimed` loses the leg and returns what the next says."""

    def __init__(self, **first: str) -> None:
        self.record = SotwSubscriptions()
        self.record.next_leg()
        self.ask(**first)

    def ask(self, *names: str, **more: str) -> None:
        self.record.request(request("sotw", EDS, *names, **more).SerializeToString())

    def pushes(self, version: str) -> pb.DiscoveryResponse:
        pushed: pb.DiscoveryResponse = response("sotw", EDS, f"nonce-{version}", version)
        self.record.response(pushed.SerializeToString())
        return pushed

    def answers(self, pushed: pb.DiscoveryResponse, *names: str, error: str = "") -> None:
        self.record.request(ack("sotw", pushed, *names, error=error).SerializeToString())

    def claimed(self) -> str:
        (body,) = self.record.next_leg()
        return str(pb.DiscoveryRequest.FromString(body).version_info)


def test_a_new_leg_claims_the_version_that_envoy_accepted_last_and_does_so_again() -> None:
    stream = Stream()
    stream.answers(stream.pushes("1"))
    stream.answers(stream.pushes("2"))
    assert [stream.claimed(), stream.claimed()] == ["2", "2"]


def test_what_a_reconnecting_envoy_claims_itself_is_claimed_again() -> None:
    assert Stream(version_info="7").claimed() == "7"


def test_nothing_is_claimed_while_a_response_is_unanswered_and_its_late_answer_changes_that_not() -> None:
    stream = Stream()
    stream.answers(stream.pushes("1"))
    late = stream.pushes("2")
    assert stream.claimed() == ""
    stream.answers(late)
    assert stream.claimed() == ""
    stream.answers(stream.pushes("3"))
    assert stream.claimed() == "3"


def test_nothing_is_claimed_after_a_rejection_of_which_envoy_may_have_taken_a_part() -> None:
    stream = Stream()
    stream.answers(stream.pushes("1"))
    stream.answers(stream.pushes("2"), error="bad")
    assert stream.claimed() == ""


def test_nothing_is_claimed_for_names_that_a_response_may_not_have_known_of() -> None:
    stream = Stream()
    stream.ask("a")
    stream.answers(stream.pushes("1"), "a", "b")
    stream.answers(stream.pushes("2"), "a", "b")
    assert stream.claimed() == ""
    stream.answers(stream.pushes("3"), "a", "b")
    assert stream.claimed() == "3"


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
    accepted = ""

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
            accepted = answered.version_info if kind == "ack" else accepted
            forward(ack("sotw", answered, *wanted, error="bad" if kind == "nack" else ""))
        elif kind == "lose":
            nonces = set()
            replayed = [pb.DiscoveryRequest.FromString(body) for body in record.next_leg()]
            assert all(not each.version_info or each.version_info == accepted for each in replayed)
            for each in replayed:
                each.version_info = ""
            assert replayed == ([request("sotw", EDS, *wanted, node="n")] if wanted else [])
            told, told_before = list(wanted), bool(wanted)
