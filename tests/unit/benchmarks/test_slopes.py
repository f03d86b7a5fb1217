"""Slopes and how sure they are."""

import math
import random

import pytest

from benchmarks.slopes import Slope, blocks, slope, student

HOUR_S = 3600.0


def test_a_value_that_grows_by_two_in_an_hour_has_the_slope_two() -> None:
    found = slope([(at * 60.0, 50 + 2 * at / 60) for at in range(90)])
    assert found.per_hour == pytest.approx(2)
    assert found.low == pytest.approx(2)
    assert found.high == pytest.approx(2)


def test_what_shrinks_has_a_negative_slope_and_what_stays_has_none() -> None:
    assert slope([(0, 10), (HOUR_S, 8), (2 * HOUR_S, 6)]).per_hour == pytest.approx(-2)
    assert slope([(at * 60.0, 10.0) for at in range(20)]) == Slope(per_hour=0, low=0, high=0, blocks=20)


@pytest.mark.parametrize("points", [[], [(5.0, 60.0)], [(0.0, 60.0), (60.0, 61.0)]])
def test_from_too_few_points_nothing_is_sure(points: list[tuple[float, float]]) -> None:
    found = slope(points)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_the_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    dice = random.Random(7)
    hits = 0
    for _ in range(1000):
        found = slope([(at * 180.0, 60 + at / 20 + dice.gauss(0, 0.3)) for at in range(20)])
        hits += found.low <= 1 <= found.high
    assert 920 <= hits <= 990


def test_waves_widen_the_interval() -> None:
    """Neighbours that resemble each other tell less than as many that do not."""
    dice = random.Random(7)
    noise = [dice.gauss(0, 1) for _ in range(60)]
    waves = [sum(noise[at : at + 8]) / 8**0.5 for at in range(50)]
    still, waving = (
        slope([(at * 60.0, value) for at, value in enumerate(each)]) for each in (noise[:50], waves)
    )
    assert waving.high - waving.low > 1.5 * (still.high - still.low)


@pytest.mark.parametrize(("free", "quantile"), [(3, 3.182), (5, 2.571), (10, 2.228), (18, 2.101), (60, 2.0)])
def test_students_quantiles_are_those_of_the_tables(free: float, quantile: float) -> None:
    assert student(free) == pytest.approx(quantile, rel=0.02)


def test_below_three_degrees_of_freedom_nothing_is_sure() -> None:
    assert student(2.9) == math.inf


def test_a_block_is_the_mean_of_its_time_and_a_short_last_one_is_left_out() -> None:
    points = [(float(at), float(at % 10)) for at in range(24)]
    assert blocks(points, 10.0) == [(4.5, 4.5), (14.5, 4.5)]
    assert blocks([], 10.0) == []
