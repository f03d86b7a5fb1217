"""A fuzz target for everything that reads istiod's and Envoy's bytes on the xDS path.

    python -m tests.fuzz.envelope --seconds 60 [--seed 1]

The seeds are the recordings of a real istiod; a mutation cuts, repeats, swaps and overwrites. Where
`atheris` is installed, `--atheris` hands the same target to it, for a search that is led by coverage.
"""

import argparse
import importlib
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from lab.replay import recorded_messages
from pilot_agent.wire import WireError
from pilot_agent.xds.delta import DeltaSubscriptions
from pilot_agent.xds.envelope import (
    Spans,
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

RECORDINGS: Final = Path(__file__).parents[1] / "data" / "recordings"
_REFUSALS: Final = (WireError, InternalTypeError, StoreError)
_NASTY: Final = (b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\x00", b"\x12\xff\xff\xff\xff\x0f", b"\x0b", b"\x07")


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


def mutations(found: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield hostile variations of the seeds, for ever."""
    while True:
        data = bytearray(chance.choice(found))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data) + 1)
            end = min(len(data), at + chance.randint(0, 40))
            match chance.randrange(6):
                case 0:
                    del data[at:]
                case 1:
                    del data[at:end]
                case 2:
                    data[at:at] = data[at:end]
                case 3:
                    data[at:at] = chance.choice(_NASTY)
                case 4:
                    data[at:end] = chance.randbytes(end - at)
                case _:
                    data[at:at] = chance.choice(found)[:200]
        yield bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--atheris", action="store_true", help="search by coverage; wants atheris")
    options, rest = parser.parse_known_args()
    if options.atheris:
        atheris = importlib.import_module("atheris")  # no dependency: it builds for few Pythons
        atheris.Setup([sys.argv[0], *rest], atheris.instrument_func(target))
        atheris.Fuzz()
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    end_s = time.monotonic() + options.seconds
    for number, data in enumerate(itertools.chain(seeds(), mutations(seeds(), random.Random(seed)))):
        try:
            target(data)
        except Exception:
            print(f"after {number} inputs: {data.hex()}", flush=True)
            raise
        if time.monotonic() > end_s:
            print(f"{number + 1} inputs, nothing found")
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
