"""What is kept is what Envoy accepted, after any history; and it is enough to serve the same again."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.xds.envelope import (
    read_delta_request,
    read_delta_response,
    read_sotw_request,
    read_sotw_response,
)
from pilot_agent.xds.known_good.answers import Answers
from pilot_agent.xds.known_good.content import Content
from pilot_agent.xds.known_good.keeper import Forget, Keeper, Order, Retain
from tests.support.xds_messages import CDS, EDS, SDS, ack, request, response
from tests.support.xds_model import QUEUES, Model, Variant, World, content, is_bad

NAMES = ["a", "b", "c"]
VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])
READ_REQUEST: Any = {"sotw": read_sotw_request, "delta": read_delta_request}
READ_RESPONSE: Any = {"sotw": read_sotw_response, "delta": read_delta_response}


class Kept:
    """A store in memory: what the files would hold."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self.types: dict[str, Content] = {}

    def take(self, orders: list[Order]) -> None:
        for order in orders:
            known = self.types.get(order.type_url)
            if isinstance(order, Forget):
                self.types.pop(order.type_url, None)
            elif isinstance(order, Retain):
                if known is not None:
                    known.retain(order.claims)
            elif order.afresh:
                self.types[order.type_url] = Content(self._variant, order.type_url)
                self.types[order.type_url].accept(order.body)
            elif known is not None:
                known.accept(order.body)

    def resources(self, type_url: str) -> dict[str, bytes]:
        known = self.types.get(type_url)
        if known is None:
            return {}
        return {name.decode(): one.body for name, one in known.resources.items()}


class KeptModel(Model):
    """The model with a keeper where the upstream half has one."""

    def __init__(self, variant: Variant, names: set[str], world: World, kept: Kept) -> None:
        self.kept, self.keeper = kept, Keeper(1 << 20)
        self.lost: list[Order] | None = None  # a list: orders do not reach the disk
        super().__init__(variant, names, world)

    def cut_upstream(self) -> None:
        self.keeper = Keeper(1 << 20)
        self.keeper.begin_leg()
        super().cut_upstream()

    def _deliver_to_istiod(self, body: bytes) -> None:
        orders = self.keeper.request(READ_REQUEST[self.variant](body))
        (self.kept.take if self.lost is None else self.lost.extend)(orders)
        super()._deliver_to_istiod(body)

    def _deliver_from_istiod(self, body: bytes) -> None:
        self.keeper.response(READ_RESPONSE[self.variant](body))
        super()._deliver_from_istiod(body)


def worlds(values: list[bytes]) -> st.SearchStrategy[World]:
    by_name = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(values)).map(
        lambda found: {name: content(name, value) for name, value in found.items()}
    )
    return st.fixed_dictionaries({CDS: by_name, EDS: by_name})


def events(values: list[bytes]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    return st.lists(
        st.one_of(
            st.tuples(st.just("push"), worlds(values)),
            st.tuples(st.just("ask"), st.sets(st.sampled_from(NAMES))),
            st.tuples(
                st.sampled_from(["cut upstream", "cut downstream", "settle", "lose orders"]), st.none()
            ),
            st.tuples(st.just("step"), st.sampled_from(QUEUES)),
        ),
        max_size=30,
    )


def run(model: KeptModel, history: list[tuple[str, Any]]) -> bool:
    """Return whether an order got lost."""
    is_lossy = False
    for kind, detail in history:
        if kind == "push":
            model.push(detail)
        elif kind == "ask":
            model.from_envoy.extend(model.envoy.asks_for_endpoints(detail))
        elif kind == "step":
            model.step(detail)
        elif kind == "settle":
            model.settle()
        elif kind == "lose orders":  # the writer lags, and dies with the next cut
            model.lost = model.lost or []
        else:
            is_lossy = is_lossy or bool(model.lost)
            model.lost = None
            model.cut_upstream() if kind == "cut upstream" else model.cut_downstream()
    if model.lost:
        model.kept.take(model.lost)
    model.lost = None
    model.settle()
    return is_lossy


def values_of(variant: Variant, kept: dict[str, bytes]) -> dict[str, bytes]:
    """Return the contents inside the kept Any or Resource."""
    from envoy.service.discovery.v3 import discovery_pb2 as pb
    from google.protobuf import any_pb2

    if variant == "delta":
        return {name: pb.Resource.FromString(body).resource.value for name, body in kept.items()}
    return {name: any_pb2.Any.FromString(body).value for name, body in kept.items()}


@VARIANTS
@settings(max_examples=120, deadline=None)
@given(world=worlds([b"1", b"2"]), history=events([b"1", b"2", b"3"]))
def test_what_is_kept_is_what_envoy_holds(
    variant: Variant, world: World, history: list[tuple[str, Any]]
) -> None:
    kept = Kept(variant)
    model = KeptModel(variant, {"a"}, world, kept)
    is_lossy = run(model, history)
    for type_url, watch in model.envoy.watches.items():
        held = {name: value for name, (_, value) in watch.held.items()}
        # What Envoy dropped in a request that a cut lost may still be there: it is not asked for again.
        got = values_of(variant, kept.resources(type_url))
        got = {name: value for name, value in got.items() if watch.everything or name in watch.names}
        if variant == "sotw" and type_url == EDS:  # both may hold what exists no more: nobody tells them
            held = {name: value for name, value in held.items() if name in got}
            got = {name: value for name, value in got.items() if name in held or name in model.world[EDS]}
        if is_lossy:
            assert got.items() <= held.items()
        else:
            assert got == held


@VARIANTS
@settings(max_examples=120, deadline=None)
@given(world=worlds([b"1", b"bad"]), history=events([b"1", b"2", b"bad"]))
def test_nothing_that_envoy_rejected_is_ever_kept(
    variant: Variant, world: World, history: list[tuple[str, Any]]
) -> None:
    kept = Kept(variant)
    run(KeptModel(variant, {"a", "b"}, world, kept), history)
    for type_url in (CDS, EDS):
        assert not [value for value in values_of(variant, kept.resources(type_url)).values() if is_bad(value)]


@VARIANTS
@settings(max_examples=80, deadline=None)
@given(world=worlds([b"1", b"2"]), history=events([b"1", b"2", b"3"]))
def test_a_new_envoy_that_is_answered_from_what_was_kept_holds_the_same(
    variant: Variant, world: World, history: list[tuple[str, Any]]
) -> None:
    kept = Kept(variant)
    before = KeptModel(variant, {"a", "c"}, world, kept)
    run(before, history)
    names = before.envoy.watches[EDS].names
    after = Model(variant, names, {CDS: {}, EDS: {}})
    answers = Answers(kept.types.get)
    waiting = after.envoy.first_requests()
    for _ in range(100):
        if not waiting:
            break
        answer = answers.answer(READ_REQUEST[variant](waiting.pop(0)))
        if answer is not None:
            waiting += after.envoy.receives(answer)
    assert not waiting, "they talk for ever"
    for type_url, watch in after.envoy.watches.items():
        held = {name: value for name, (_, value) in watch.held.items()}
        got = values_of(variant, kept.resources(type_url))
        assert held == {name: value for name, value in got.items() if watch.everything or name in names}


def keeper_after(variant: Variant, type_url: str) -> Keeper:
    keeper = Keeper(1000)
    keeper.begin_leg()
    keeper.request(READ_REQUEST[variant](request(variant, type_url, node="n").SerializeToString()))
    return keeper


def accepts(keeper: Keeper, variant: Variant, pushed: Any) -> list[Order]:
    keeper.response(READ_RESPONSE[variant](pushed.SerializeToString()))
    return keeper.request(READ_REQUEST[variant](ack(variant, pushed).SerializeToString()))


@VARIANTS
def test_a_secret_is_never_kept(variant: Variant) -> None:
    assert accepts(keeper_after(variant, SDS), variant, response(variant, SDS, "1", default=b"key")) == []


def test_a_part_is_not_kept_without_the_whole_it_belongs_to() -> None:
    keeper = keeper_after("delta", CDS)
    assert accepts(keeper, "delta", response("delta", CDS, "1", a=b"x" * 2000)) == [Forget(CDS, "too big")]
    assert accepts(keeper, "delta", response("delta", CDS, "2", b=b"x")) == []


@VARIANTS
def test_what_waits_for_its_verdict_is_bounded(variant: Variant) -> None:
    keeper = keeper_after(variant, CDS)
    for number in range(100):
        keeper.response(
            READ_RESPONSE[variant](response(variant, CDS, str(number), a=b"x" * 500).SerializeToString())
        )
    assert keeper._waiting_bytes <= 1000
