"""The two protocol variants of one ADS stream: who is answered what, and what is pushed when."""

import itertools
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from lab.snapshot import CDS, EDS, NDS, PCDS, RDS, Resource, Snapshot
from lab.stream import DeltaStream, Outgoing, SotwStream


def world(**clusters: str) -> Snapshot:
    """Return a snapshot with clusters and an endpoint resource of the same name; values are contents."""
    resources = [Resource.of(name, CDS, value.encode()) for name, value in clusters.items()]
    return Snapshot.of(*resources, *(Resource.of(one.name, EDS, one.value) for one in resources))


def sotw() -> SotwStream:
    numbers = itertools.count(1)
    return SotwStream(lambda version: f"{version}/n{next(numbers)}")


def delta() -> DeltaStream:
    numbers = itertools.count(1)
    return DeltaStream(lambda version: f"{version}/n{next(numbers)}")


def ask(type_url: str, *names: str, nonce: str = "", error: str = "") -> Any:
    detail = status_pb2.Status(code=13, message=error) if error else None
    return discovery_pb2.DiscoveryRequest(
        type_url=type_url, resource_names=names, response_nonce=nonce, error_detail=detail
    )


def ask_delta(
    type_url: str,
    *names: str,
    nonce: str = "",
    without: tuple[str, ...] = (),
    known: dict[str, str] | None = None,
    error: str = "",
) -> Any:
    return discovery_pb2.DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=names,
        resource_names_unsubscribe=without,
        initial_resource_versions=known or {},
        response_nonce=nonce,
        error_detail=status_pb2.Status(code=13, message=error) if error else None,
    )


def only(outgoing: list[Outgoing]) -> Any:
    """Return the one response, decoded."""
    (one,) = outgoing
    is_delta = one.version_info.startswith("d")
    kind = discovery_pb2.DeltaDiscoveryResponse if is_delta else discovery_pb2.DiscoveryResponse
    return kind.FromString(one.data)


def names_in(response: Any) -> list[str]:
    return sorted(one.name for one in response.resources)


class TestSotw:
    def test_a_first_request_is_answered_in_full_and_its_ack_with_nothing(self) -> None:
        stream, now = sotw(), world(a="1", b="2")
        _, outgoing = stream.receive(ask(CDS), now, "v1")
        response = only(outgoing)
        assert [one.value for one in response.resources] == [b"1", b"2"]
        assert (response.version_info, response.nonce) == ("v1", "v1/n1")
        assert stream.receive(ask(CDS, nonce=response.nonce), now, "v1") == ("ack", [])

    def test_a_nack_is_not_answered_and_the_next_change_is_pushed(self) -> None:
        stream = sotw()
        response = only(stream.receive(ask(CDS), world(a="1"), "v1")[1])
        verdict, outgoing = stream.receive(
            ask(CDS, nonce=response.nonce, error="bad cluster"), world(a="1"), "v1"
        )
        assert (verdict, outgoing) == ("nack", [])
        assert [one.value for one in only(stream.push(world(a="2"), "v2")).resources] == [b"2"]

    def test_a_stale_nonce_is_ignored(self) -> None:
        stream = sotw()
        stream.receive(ask(CDS), world(a="1"), "v1")
        assert stream.receive(ask(CDS, "x", nonce="of old"), world(a="1"), "v1") == ("stale", [])

    def test_a_push_waits_for_the_ack_of_the_one_in_flight(self) -> None:
        stream = sotw()
        first = only(stream.receive(ask(CDS), world(a="1"), "v1")[1])
        assert stream.push(world(a="2"), "v2") == []
        _, outgoing = stream.receive(ask(CDS, nonce=first.nonce), world(a="2"), "v2")
        assert only(outgoing).version_info == "v2"

    def test_a_world_that_is_the_same_for_this_type_is_not_pushed(self) -> None:
        stream, now = sotw(), world(a="1")
        response = only(stream.receive(ask(EDS, "a"), now, "v1")[1])
        stream.receive(ask(EDS, "a", nonce=response.nonce), now, "v1")
        assert stream.push(world(a="1", b="new"), "v2") == []

    def test_more_names_are_answered_with_all_of_them(self) -> None:
        stream, now = sotw(), world(a="1", b="2")
        first = only(stream.receive(ask(EDS, "a"), now, "v1")[1])
        _, outgoing = stream.receive(ask(EDS, "a", "b", nonce=first.nonce), now, "v1")
        assert len(only(outgoing).resources) == 2

    def test_endpoints_without_names_and_a_trust_bundle_that_is_not_there_get_no_answer(self) -> None:
        stream = sotw()
        assert stream.receive(ask(EDS), world(a="1"), "v1") == ("subscribe", [])
        assert stream.receive(ask(PCDS), world(a="1"), "v1") == ("subscribe", [])

    def test_an_old_nonce_on_a_new_stream_is_a_subscription(self) -> None:
        verdict, outgoing = sotw().receive(ask(CDS, nonce="from before"), world(a="1"), "v1")
        assert verdict == "subscribe"
        assert len(outgoing) == 1

    def test_a_recorded_response_is_sent_byte_for_byte_and_its_nonce_is_acked(self) -> None:
        recorded = discovery_pb2.DiscoveryResponse(type_url=CDS, nonce="rec", version_info="r1")
        data = recorded.SerializeToString() + b"\xba\x3e\x03xyz"  # with a field that nobody knows
        now = Snapshot(by_type=world(a="1").by_type, verbatim={CDS: data})
        stream = sotw()
        _, outgoing = stream.receive(ask(CDS), now, "v1")
        assert outgoing[0].data == data
        assert stream.receive(ask(CDS, nonce="rec"), now, "v1") == ("ack", [])
        assert stream.push(now, "v2") == []


class TestDelta:
    def test_a_wildcard_gets_all_and_later_only_what_changed(self) -> None:
        stream = delta()
        first = only(stream.receive(ask_delta(CDS), world(a="1", b="1"), "d1")[1])
        assert names_in(first) == ["a", "b"]
        assert stream.receive(ask_delta(CDS, nonce=first.nonce), world(a="1", b="1"), "d1")[0] == "ack"
        second = only(stream.push(world(b="2", c="1"), "d2"))
        assert names_in(second) == ["b", "c"]
        assert second.removed_resources == ["a"]

    def test_versions_that_the_client_holds_are_not_sent_again(self) -> None:
        now = world(a="1", b="1")
        known = {"a": now.of_type(CDS)["a"].version, "b": "old", "gone": "x"}
        response = only(delta().receive(ask_delta(CDS, "*", known=known), now, "d1")[1])
        assert names_in(response) == ["b"]
        assert response.removed_resources == ["gone"]

    def test_an_answer_to_a_wildcard_comes_even_if_all_is_known(self) -> None:
        now = world(a="1")
        known = {"a": now.of_type(CDS)["a"].version}
        assert names_in(only(delta().receive(ask_delta(CDS, known=known), now, "d1")[1])) == []
        assert delta().receive(ask_delta(EDS, "a", known=known), now, "d1")[1] == []

    def test_names_come_and_go(self) -> None:
        stream, now = delta(), world(a="1", b="1")
        first = only(stream.receive(ask_delta(EDS, "a"), now, "d1")[1])
        assert names_in(first) == ["a"]
        stream.receive(ask_delta(EDS, nonce=first.nonce), now, "d1")
        second = only(stream.receive(ask_delta(EDS, "b", without=("a",)), now, "d1")[1])
        assert names_in(second) == ["b"]
        stream.receive(ask_delta(EDS, nonce=second.nonce), now, "d1")
        assert stream.push(world(a="2", b="1"), "d2") == []

    def test_a_name_that_is_subscribed_to_again_is_sent_again(self) -> None:
        stream, now = delta(), world(a="1")
        first = only(stream.receive(ask_delta(EDS, "a"), now, "d1")[1])
        stream.receive(ask_delta(EDS, nonce=first.nonce), now, "d1")
        assert names_in(only(stream.receive(ask_delta(EDS, "a"), now, "d1")[1])) == ["a"]

    def test_a_name_that_does_not_exist_is_said_to_be_removed(self) -> None:
        response = only(delta().receive(ask_delta(RDS, "nope"), world(a="1"), "d1")[1])
        assert response.removed_resources == ["nope"]

    def test_a_push_waits_for_the_nack_of_the_one_in_flight(self) -> None:
        stream = delta()
        first = only(stream.receive(ask_delta(CDS), world(a="1"), "d1")[1])
        assert stream.push(world(a="2"), "d2") == []
        request = ask_delta(CDS, nonce=first.nonce, error="no")
        verdict, outgoing = stream.receive(request, world(a="2"), "d2")
        assert verdict == "nack"
        assert names_in(only(outgoing)) == ["a"]

    def test_the_name_table_needs_no_names(self) -> None:
        now = Snapshot.of(Resource.of("", NDS, b"table"))
        assert names_in(only(delta().receive(ask_delta(NDS), now, "d1")[1])) == [""]


@pytest.mark.parametrize("make", [sotw, delta], ids=["sotw", "delta"])
def test_what_is_referred_to_is_pushed_before_what_refers_to_it(make: Any) -> None:
    stream, version = make(), "d" if make is delta else "v"
    request = ask_delta if make is delta else ask
    for type_url, names in ((EDS, ("a",)), (CDS, ())):
        response = only(stream.receive(request(type_url, *names), world(a="1"), version + "1")[1])
        stream.receive(
            request(type_url, *(() if make is delta else names), nonce=response.nonce),
            world(a="1"),
            version + "1",
        )
    assert [one.type_url for one in stream.push(world(a="2"), version + "2")] == [CDS, EDS]
