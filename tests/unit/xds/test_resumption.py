"""Whatever is cut at whatever moment, Envoy ends with what a client that was never cut ends with."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.xds_messages import CDS, EDS
from tests.support.xds_model import QUEUES, Model, Variant, World, content, is_bad

NAMES = ["a", "b", "c", "d"]
VALUES = st.sampled_from([b"1", b"2", b"3", b"bad"])


def _worlds() -> st.SearchStrategy[World]:
    by_name = st.dictionaries(st.sampled_from(NAMES), VALUES).map(
        lambda values: {name: content(name, value) for name, value in values.items()}
    )
    return st.fixed_dictionaries({CDS: by_name, EDS: by_name})


WANTED = st.sets(st.sampled_from(NAMES))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), _worlds()),
        st.tuples(st.just("ask"), WANTED),
        st.tuples(st.sampled_from(["cut upstream", "cut downstream", "hand over"]), st.none()),
        st.tuples(st.just("step"), st.sampled_from(QUEUES)),
        st.tuples(st.just("settle"), st.none()),
    ),
    max_size=40,
)


def complete(variant: Variant, world: World) -> World:
    """Keep out of SotW what even a client that was never cut does not get over.

    Names that do not exist are not answered there, and names in a rejection are not read.
    """
    if variant == "delta":
        return world
    good = {name: value for name, value in world[EDS].items() if not is_bad(value)}
    return world | {EDS: {name: content(name, b"0") for name in NAMES} | good}


def run(model: Model, events: list[tuple[str, Any]], *, cuts: bool) -> Model:
    for kind, detail in events:
        if kind == "push":
            model.push(complete(model.variant, detail))
        elif kind == "ask":
            model.from_envoy.extend(model.envoy.asks_for_endpoints(detail))
        elif kind == "step":
            model.step(detail)
        elif kind == "settle":
            model.settle()
        elif cuts and kind == "cut upstream":
            model.cut_upstream()
        elif cuts and kind == "hand over":
            model.hand_over()
        elif cuts:
            model.cut_downstream()
    model.settle()
    return model


def expected(model: Model) -> World:
    """Return what exists, is good and is asked for."""
    return {
        type_url: {
            name: value
            for name, value in model.world[type_url].items()
            if not is_bad(value) and (watch.everything or name in watch.names)
        }
        for type_url, watch in model.envoy.watches.items()
    }


@pytest.mark.parametrize(("variant", "legacy"), [("sotw", True), ("delta", True), ("delta", False)])
@settings(max_examples=200, deadline=None)
@given(first=WANTED, world=_worlds(), events=EVENTS)
def test_the_end_state_is_that_of_a_client_that_was_never_cut(
    variant: Variant, legacy: bool, first: set[str], world: World, events: list[tuple[str, Any]]
) -> None:
    world = complete(variant, world)
    cut = run(Model(variant, first, world, legacy=legacy), events, cuts=True)
    whole = run(Model(variant, first, world, legacy=legacy), events, cuts=False)

    assert cut.held() == whole.held() == expected(cut)
    if variant == "delta":  # removals are told: Envoy keeps nothing that is gone
        for type_url, watch in cut.envoy.watches.items():
            assert set(watch.held) <= set(cut.world[type_url])
    else:
        assert set(cut.envoy.watches[CDS].held) <= set(cut.world[CDS])


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_what_is_removed_while_istiod_is_away_reaches_envoy(variant: Variant) -> None:
    both = {CDS: {"a": content("a", b"1"), "b": content("b", b"1")}, EDS: {}}
    model = Model(variant, set(), both)
    model.settle()
    assert set(model.held()[CDS]) == {"a", "b"}
    model.world = {CDS: {"a": both[CDS]["a"]}, EDS: {}}
    model.cut_upstream()
    model.settle()
    assert set(model.envoy.watches[CDS].held) == {"a"}


def test_what_envoy_holds_already_is_not_sent_again_on_a_resumed_delta_stream() -> None:
    model = Model("delta", {"a"}, {CDS: {}, EDS: {"a": content("a", b"1")}})
    model.settle()
    seen = set(model.envoy.seen_nonces)
    model.cut_upstream()
    model.settle()
    assert len(model.envoy.seen_nonces - seen) == 1  # for clusters, which are answered even if there are none
    assert model.held()[EDS] == {"a": content("a", b"1")}
