"""The arithmetic of the kills."""

import pytest

from benchmarks.recovery import p99


@pytest.mark.parametrize(
    ("values", "expected"),
    [([5.0], 5.0), ([float(at) for at in range(1, 101)], 99.0), ([float(at) for at in range(200)], 197.0)],
    ids=["one", "a hundred", "two hundred"],
)
def test_at_most_one_of_a_hundred_is_above_the_p99(values: list[float], expected: float) -> None:
    assert p99(values) == expected
