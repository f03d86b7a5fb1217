"""A short run of each fuzz target; the long one, led by coverage, is `tox run -e fuzz -- --seconds 600`."""

import importlib
import random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import TARGETS
from tests.fuzz.mutation import mutated

_NO_TEXT = (  # a frame with a text that is no UTF-8
    "0000350100000100000007000000210000000000000000"
    "0947656453656372657481ad7265736f757263655f6e616d65a70000f601000064"
)

FOUND: dict[str, tuple[str, ...]] = {
    "frames": (
        "0000f601000001000000070085c924c3597164c4a6058a00",  # a body of 10^19 bytes
        _NO_TEXT,
    ),
    "configuration": ("7b2261223a22ff227d",),
    "probes": ("7b2261223a22ff227d",),
}
"""Inputs that once broke a target, in hexadecimal."""


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.targets.{name}")


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_and_those_that_once_broke_it_are_read_or_refused(name: str) -> None:
    module = module_of(name)
    seeds = module.seeds()
    assert seeds
    for data in (*seeds, b"", *map(bytes.fromhex, FOUND.get(name, ()))):
        module.target(data)


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_variations_are_read_or_refused(name: str) -> None:
    module = module_of(name)
    seeds = module.seeds()

    @settings(max_examples=150, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=200),
            st.builds(
                lambda number, draw: mutated(seeds[number % len(seeds)], seeds, random.Random(draw)),
                st.integers(0, 1 << 16),
                st.integers(0, 1 << 32),
            ),
        )
    )
    def check(data: bytes) -> None:
        module.target(data)

    check()
