"""Which results of conversions still count."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.wasm.in_flight import InFlight
from pilot_agent.xds.envelope import DeltaResponse, SotwResponse, read_delta_response, read_sotw_response
from tests.support.xds_messages import response

ECDS = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"


def told(
    variant: str, nonce: str, *names: str, removed: tuple[str, ...] = ()
) -> SotwResponse | DeltaResponse:
    message = response(variant, ECDS, nonce, "1", **dict.fromkeys(names, b"x"))
    if removed:
        message.removed_resources.extend(removed)
    data = message.SerializeToString()
    return read_sotw_response(data) if variant == "sotw" else read_delta_response(data)


def names_of(body: bytes | None) -> tuple[set[str], set[str]] | None:
    if body is None:
        return None
    read = read_delta_response(body)
    return {name.decode() for name in read.versions()}, {name.decode() for name in read.removed}


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_result_counts_once(variant: Any) -> None:
    flight = InFlight(variant)
    ticket = flight.arrived(told(variant, "1", "a"), leg=1)
    assert len(flight) == 1
    assert flight.is_awaited(ticket)
    assert flight.finished(ticket, b"") == b""
    assert flight.finished(ticket, b"") is None
    assert len(flight) == 0


def test_in_sotw_a_newer_response_makes_the_older_pointless() -> None:
    flight = InFlight("sotw")
    old = flight.arrived(told("sotw", "1", "a"), leg=1)
    new = flight.arrived(told("sotw", "2", "a"), leg=1)
    assert not flight.is_awaited(old)
    assert flight.finished(old, b"old") is None
    assert not flight.failed(old)
    assert flight.finished(new, b"new") == b"new"


def test_in_delta_only_the_names_that_a_newer_one_tells_of_are_taken_out() -> None:
    flight = InFlight("delta")
    first = told("delta", "1", "a", "b", "c", removed=("d", "e"))
    old = flight.arrived(first, leg=1)
    second = told("delta", "2", "a", "d", removed=("b",))
    new = flight.arrived(second, leg=1)
    assert names_of(flight.finished(new, second.spans.data)) == ({"a", "d"}, {"b"})
    late = flight.finished(old, first.spans.data)
    assert names_of(late) == ({"c"}, {"e"})
    assert late is not None
    assert read_delta_response(late).nonce == "1"


def test_a_delta_of_which_nothing_is_left_is_not_sent() -> None:
    flight = InFlight("delta")
    first = told("delta", "1", "a")
    old = flight.arrived(first, leg=1)
    flight.arrived(told("delta", "2", removed=("a",)), leg=1)
    assert flight.finished(old, first.spans.data) is None


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_results_of_an_older_leg_are_worth_nothing(variant: Any) -> None:
    flight = InFlight(variant)
    old = flight.arrived(told(variant, "1", "a"), leg=1)
    new = flight.arrived(told(variant, "1", "b"), leg=2)
    assert flight.finished(old, told(variant, "1", "a").spans.data) is None
    assert flight.failed(new)


UPDATES = st.lists(
    st.tuples(st.sets(st.sampled_from("abcd"), max_size=3), st.sets(st.sampled_from("abcd"), max_size=2)),
    min_size=1,
    max_size=6,
)


@given(UPDATES, st.randoms(use_true_random=False))
def test_in_whatever_order_results_come_envoy_ends_where_istiod_is(updates: Any, random: Any) -> None:
    flight, tickets = InFlight("delta"), []
    expected: dict[str, int] = {}
    for number, (names, removed) in enumerate(updates):
        gone = removed - names
        message = response("delta", ECDS, str(number), str(number), **dict.fromkeys(names, b"x"))
        message.removed_resources.extend(sorted(gone))
        read = read_delta_response(message.SerializeToString())
        tickets.append((flight.arrived(read, leg=1), read.spans.data))
        expected |= dict.fromkeys(names, number)
        for name in gone:
            expected.pop(name, None)
    random.shuffle(tickets)
    held: dict[str, int] = {}
    for ticket, data in tickets:
        body = flight.finished(ticket, data)
        if body is None:
            continue
        answer = read_delta_response(body)
        held |= {name.decode(): int(version) for name, version in answer.versions().items()}
        for name in answer.removed:
            held.pop(name.decode(), None)
    assert held == expected
