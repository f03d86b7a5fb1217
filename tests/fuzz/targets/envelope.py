"""All that reads istiod's and Envoy's bytes on the xDS path; the seeds are recordings of a real istiod."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from lab.replay import recorded_messages
from pilot_agent.wire import WireError
from pilot_agent.xds.delta import DeltaSubscriptions
from pilot_agent.xds.envelope import (
    Spans,
    read_delta_names,
    read_delta_request,
    read_delta_response,
    read_sotw_request,
    read_sotw_response,
)
from pilot_agent.xds.internal_types import InternalTypeError, ca_certificates_pem, name_table
from pilot_agent.xds.known_good.content import Content, read_content
from pilot_agent.xds.known_good.keeper import Keeper
from pilot_agent.xds.known_good.records import StoreError
from pilot_agent.xds.sotw import SotwSubscriptions
from pilot_agent.xds.states import States
from tests.support.xds_messages import CDS, EDS, ack, request, response

RECORDINGS: Final = Path(__file__).parents[2] / "data" / "recordings"
_REFUSALS: Final = (WireError, InternalTypeError, StoreError)


def target(data: bytes) -> None:
    """Read `data` as everything that it could be.

    Raises:
        AssertionError: a reader accepted what it does not give back.
        Exception: a reader failed with anything but its own refusal.
    """
    for reader in _READERS:
        try:
            reader(data)
        except _REFUSALS:
            continue


def _spans(data: bytes) -> None:
    spans = Spans(data)
    numbers = [number for number in range(1, 16) if spans.count(number)]
    for number in numbers:
        assert all(0 <= start <= end <= len(data) for start, end in spans.bounds(number))
        assert spans.all(number)[-1] == spans.last(number)
        assert Spans(spans.encoded(number)).all(number) == spans.all(number)
    assert len(spans.without(*numbers)) + sum(len(spans.encoded(n)) for n in numbers) == len(data)


def _sotw_request(data: bytes) -> None:
    seen = read_sotw_request(data)
    record = SotwSubscriptions()
    record.next_leg()
    assert record.request(data) is data
    for replayed in record.next_leg():
        assert read_sotw_request(replayed).response_nonce == ""
    Keeper(1000).request(seen)
    States().request(seen)


def _delta_request(data: bytes) -> None:
    seen = read_delta_request(data)
    record = DeltaSubscriptions()
    record.next_leg()
    record.request(data)
    for replayed in record.next_leg():
        assert read_delta_request(replayed).response_nonce == ""
    Keeper(1000).request(seen)
    States().request(seen)


def _sotw_response(data: bytes) -> None:
    seen = read_sotw_response(data)
    States().response(seen, "istiod")
    SotwSubscriptions().response(data)
    if seen.resource_count:
        name_table(seen)
    Content("sotw", seen.type_url).accept(data)


def _delta_response(data: bytes) -> None:
    seen = read_delta_response(data)
    assert read_delta_names(data) == (seen.type_url, seen.nonce, seen.versions(), seen.removed)
    States().response(seen, "istiod")
    if seen.resource_count:
        ca_certificates_pem(seen)
    content = Content("delta", seen.type_url)
    content.accept(data)
    again = read_delta_response(content.response(content.resources, "n"))
    assert set(again.versions()) == set(content.resources)


def _file(data: bytes) -> None:
    read_content(data)


_READERS: Final[tuple[Callable[[bytes], None], ...]] = (
    _spans,
    _sotw_request,
    _delta_request,
    _sotw_response,
    _delta_response,
    _file,
)


def seeds() -> list[bytes]:
    """Return what a mutation begins with: small messages of each kind, and recorded ones."""
    made: list[bytes] = []
    for variant in ("sotw", "delta"):
        pushed = response(variant, CDS, "n", "1", a=b"x", b=b"y")
        asked = request(variant, EDS, "a", "b", node="sidecar~1", nonce="n")
        made += [each.SerializeToString() for each in (pushed, asked, ack(variant, pushed, error="bad"))]
        for role in ("sidecar", "router"):
            made += recorded_messages(RECORDINGS / f"ads-{role}.{variant}.binpb")
    return [seed for seed in made if len(seed) < 20_000]
