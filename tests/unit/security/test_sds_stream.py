"""The table of what a request asks for, row by row."""

import pytest

from pilot_agent.security.sds_stream import (
    NEW_STREAM,
    Ack,
    Ignore,
    MissingNode,
    Nack,
    Reaction,
    Respond,
    Stale,
    Subscription,
    Unsubscribe,
    react,
    sent,
)
from pilot_agent.security.sds_wire import HEALTH_TYPE, DiscoveryRequest

SUBSCRIBED = Subscription(identified=True, resource_names=("default",), subscribed=True, nonce="n1")


def request(*names: str, nonce: str = "", node: str = "node", nack: str | None = None) -> DiscoveryRequest:
    return DiscoveryRequest(
        node_id=node,
        resource_names=names,
        response_nonce=nonce,
        error_message=nack,
        error_code=13 if nack else 0,
    )


@pytest.mark.parametrize(
    ("before", "asked", "reaction", "names"),
    [
        (NEW_STREAM, request("default"), Respond(resource_names=("default",), initial=True), ("default",)),
        (
            NEW_STREAM,
            request("default", nonce="old"),
            Respond(resource_names=("default",), initial=True),
            ("default",),
        ),
        (NEW_STREAM, request("default", node=""), MissingNode(), ()),
        (NEW_STREAM, DiscoveryRequest(type_url=HEALTH_TYPE), Ignore(), ()),
        (NEW_STREAM, request(nack="bad"), Nack(code=13, message="bad"), ()),
        (SUBSCRIBED, request("default", nonce="n1", node=""), Ack(), ("default",)),
        (SUBSCRIBED, request("default", nonce="n0"), Stale(got="n0", expected="n1"), ("default",)),
        (SUBSCRIBED, request("default", nonce="n1", nack="bad"), Nack(code=13, message="bad"), ("default",)),
        (
            SUBSCRIBED,
            request("default", "ROOTCA", nonce="n1"),
            Respond(resource_names=("ROOTCA",), initial=False),
            ("default", "ROOTCA"),
        ),
        (SUBSCRIBED, request("ROOTCA"), Respond(resource_names=("ROOTCA",), initial=True), ("ROOTCA",)),
        (SUBSCRIBED, request(nonce="n1"), Unsubscribe(), ()),
        (SUBSCRIBED, request("b", "a", "b"), Respond(resource_names=("b", "a"), initial=True), ("b", "a")),
    ],
    ids=[
        "first request",
        "reconnect with an old nonce is answered in full",
        "no node id",
        "health information before the node",
        "nack without a subscription",
        "ack",
        "stale nonce",
        "nack",
        "a name added",
        "empty nonce replaces the subscription",
        "no names unsubscribe",
        "names keep their order, each once",
    ],
)
def test_a_request_is_answered_by_the_table(
    before: Subscription, asked: DiscoveryRequest, reaction: Reaction, names: tuple[str, ...]
) -> None:
    after, found = react(before, asked)
    assert found == reaction
    assert after.resource_names == names


def test_names_only_removed_are_an_ack_and_after_an_unsubscribe_any_nonce_is_answered_in_full() -> None:
    both = Subscription(identified=True, resource_names=("a", "b"), subscribed=True, nonce="n1")
    fewer, reaction = react(both, request("b", nonce="n1"))
    assert (fewer.resource_names, reaction) == (("b",), Ack())

    none, _ = react(fewer, request(nonce="n1"))
    again, reaction = react(none, request("b", nonce="whatever"))
    assert (again.resource_names, reaction) == (("b",), Respond(resource_names=("b",), initial=True))


def test_the_nonce_of_the_last_response_is_what_counts() -> None:
    later = sent(SUBSCRIBED, "n2")
    assert react(later, request("default", nonce="n1"))[1] == Stale(got="n1", expected="n2")
    assert react(later, request("default", nonce="n2"))[1] == Ack()
