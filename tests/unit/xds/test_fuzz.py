"""A short run of the fuzz target; the long one is `tox run -e fuzz -- --seconds 600`."""

import itertools
import random

from tests.fuzz.envelope import mutations, seeds, target


def test_hostile_variations_of_recorded_messages_are_read_or_refused() -> None:
    found = seeds()
    assert len(found) > 10
    for data in itertools.chain(found, itertools.islice(mutations(found, random.Random(1)), 3000)):
        target(data)
