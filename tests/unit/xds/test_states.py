"""What the status page can tell of a stream."""

from typing import Any

import pytest

from pilot_agent.xds.envelope import (
    read_delta_request,
    read_delta_response,
    read_sotw_request,
    read_sotw_response,
)
from pilot_agent.xds.states import NAMES_SHOWN, Source, States, TypeShown
from tests.support.xds_messages import CDS, EDS, ack, request, response

VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])
READ_REQUEST: Any = {"sotw": read_sotw_request, "delta": read_delta_request}
READ_RESPONSE: Any = {"sotw": read_sotw_response, "delta": read_delta_response}


class Told:
    """States of a stream whose clock the test moves."""

    def __init__(self, variant: str) -> None:
        self.variant, self.now_s = variant, 100.0
        self.states = States(now_s=lambda: self.now_s)
        self.states.begin_leg(1)

    def asks(self, message: Any) -> None:
        self.states.request(READ_REQUEST[self.variant](message.SerializeToString()))

    def gets(self, message: Any, source: Source = "istiod") -> None:
        self.states.response(READ_RESPONSE[self.variant](message.SerializeToString()), source)

    def of(self, type_url: str = CDS) -> TypeShown:
        shown = self.states.shown(name="1", variant=self.variant, generation=2)
        (found,) = (each for each in shown.types if each.type_url == type_url)
        return found


@VARIANTS
def test_a_type_tells_what_came_and_what_envoy_said_to_it(variant: str) -> None:
    told = Told(variant)
    told.asks(request(variant, CDS, node="n"))
    assert (told.of().state, told.of().wildcard, told.of().received_s_ago) == ("waiting", True, -1.0)
    first, second = response(variant, CDS, "n1", "7", a=b"x"), response(variant, CDS, "n2", "8")
    told.gets(first)
    told.now_s += 2
    told.asks(ack(variant, first))
    told.gets(second)
    told.now_s += 3
    told.asks(ack(variant, second, error="no such filter"))

    shown = told.of()
    assert (shown.state, shown.version, shown.nonce) == ("live", "8", "n2")
    assert (shown.answer, shown.answered_nonce, shown.error) == ("nack", "n2", "no such filter")
    assert (shown.received_s_ago, shown.answered_s_ago) == (3.0, 0.0)
    assert shown.responses == 2
    assert shown.bytes_last == len(second.SerializeToString())
    assert shown.bytes_total == shown.bytes_last + len(first.SerializeToString())


@VARIANTS
def test_names_are_those_of_now_and_not_too_many(variant: str) -> None:
    told = Told(variant)
    told.asks(request(variant, EDS, *(str(number) for number in range(NAMES_SHOWN + 5))))
    assert told.of(EDS).names_count == NAMES_SHOWN + 5
    assert len(told.of(EDS).names) == NAMES_SHOWN
    told.states.begin_leg(2)
    told.asks(request(variant, EDS, "a", "b"))
    if variant == "delta":
        told.asks(request(variant, EDS, "c", resource_names_unsubscribe=["a"]))
    else:
        told.asks(request(variant, EDS, "b", "c", nonce="n"))
    assert (told.of(EDS).names, told.of(EDS).wildcard) == (("b", "c"), False)


def test_everything_is_asked_for_by_a_star_until_that_is_taken_back() -> None:
    told = Told("delta")
    told.asks(request("delta", CDS, "*", "a"))
    assert (told.of().wildcard, told.of().names) == (True, ("a",))
    told.asks(request("delta", CDS, resource_names_unsubscribe=["*"]))
    assert told.of().wildcard is False


@VARIANTS
def test_what_comes_from_the_store_is_stale_until_istiod_answers(variant: str) -> None:
    told = Told(variant)
    told.asks(request(variant, CDS))
    told.gets(response(variant, CDS, "last-known-good/1"), "last known good")
    assert told.of().state == "stale"
    told.states.begin_leg(2)
    assert told.states.shown(name="1", variant=variant, generation=2).source == ""
    told.gets(response(variant, CDS, "n1"))
    assert told.of().state == "live"
    assert told.states.shown(name="1", variant=variant, generation=2).leg == 2
