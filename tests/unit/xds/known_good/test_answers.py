"""What a leg to the store answers, request by request."""

from typing import Any

import pytest

from pilot_agent.xds.envelope import read_delta_request, read_sotw_request
from pilot_agent.xds.known_good.answers import Answers
from pilot_agent.xds.known_good.content import Content
from tests.support.xds_messages import CDS, EDS, LDS, request, response
from tests.support.xds_model import RESPONSES, content

VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])


def kept(variant: Any, type_url: str, *names: str) -> Content:
    made = Content(variant, type_url)
    resources = {name: content(name, b"1") for name in names}
    made.accept(response(variant, type_url, "istiods-nonce", "7", **resources).SerializeToString())
    return made


class Leg:
    """Asks as Envoy; knows clusters a and b, endpoints x and y, and an empty list of listeners."""

    def __init__(self, variant: Any) -> None:
        self.variant = variant
        known = {
            CDS: kept(variant, CDS, "a", "b"),
            EDS: kept(variant, EDS, "x", "y"),
            LDS: kept(variant, LDS),
        }
        self._answers = Answers(known.get)

    def ask(self, type_url: str, *names: str, **more: Any) -> Any:
        body = request(self.variant, type_url, *names, **more).SerializeToString()
        read: Any = read_sotw_request if self.variant == "sotw" else read_delta_request
        answer = self._answers.answer(read(body))
        if answer is None:
            return None
        return RESPONSES[self.variant].FromString(answer)

    def names(self, answer: Any) -> list[str]:
        if self.variant == "delta":
            return [one.name for one in answer.resources]
        return [one.value[2:3].decode() for one in answer.resources]


@VARIANTS
def test_everything_is_answered_with_everything_under_a_nonce_of_its_own(variant: str) -> None:
    leg = Leg(variant)
    answer = leg.ask(CDS)
    assert leg.names(answer) == ["a", "b"]
    assert answer.nonce == "last-known-good/1"
    assert (answer.version_info if variant == "sotw" else answer.system_version_info) == "7"
    assert leg.ask(CDS, nonce=answer.nonce) is None  # the ACK


@VARIANTS
def test_names_are_answered_as_far_as_they_are_known_and_later_ones_too(variant: str) -> None:
    leg = Leg(variant)
    assert leg.names(leg.ask(EDS, "x", "unknown")) == ["x"]
    if variant == "sotw":
        assert leg.names(leg.ask(EDS, "x", "y", nonce="last-known-good/1")) == ["x", "y"]
    else:
        assert leg.names(leg.ask(EDS, "y")) == ["y"]
    assert leg.ask(EDS, "z" if variant == "delta" else "x", nonce="last-known-good/2") is None


@VARIANTS
def test_unknown_names_alone_are_not_answered(variant: str) -> None:
    assert Leg(variant).ask(EDS, "unknown") is None


@VARIANTS
def test_an_empty_list_is_an_answer_that_envoy_waits_for(variant: str) -> None:
    leg = Leg(variant)
    assert leg.names(leg.ask(LDS)) == []


@VARIANTS
def test_a_type_of_which_nothing_is_kept_is_not_answered(variant: str) -> None:
    assert Leg(variant).ask("type.googleapis.com/envoy.x.Y") is None


def test_what_envoy_says_it_holds_already_is_not_answered() -> None:
    assert Leg("sotw").ask(CDS, version_info="3") is None
    assert Leg("delta").ask(CDS, initial_resource_versions={"a": "1"}) is None


def test_a_resource_that_is_asked_for_again_in_delta_is_sent_again() -> None:
    leg = Leg("delta")
    leg.ask(EDS, "x")
    leg.ask(EDS, resource_names_unsubscribe=["x"])
    assert leg.names(leg.ask(EDS, "x")) == ["x"]
