"""The arithmetic of the soak: slopes, and what is left out of them."""

from dataclasses import replace

import pytest

from benchmarks import soak

HOUR_S = 3600.0
NOTHING = soak.Sample(
    at_s=0, memory_mb=60, descriptors=90, threads=70, restarts=0, epoch=0, requests=0, failed=0, rejected=0
)


def test_a_value_that_grows_by_two_in_an_hour_has_the_slope_two() -> None:
    points = [(at * 60.0, 50 + 2 * at / 60) for at in range(90)]
    assert soak.slope_per_hour(points) == pytest.approx(2)


def test_growth_shows_below_a_value_that_swings() -> None:
    points = [(at * 60.0, 50 + 2 * at / 60 + (-1) ** at) for at in range(240)]
    assert soak.slope_per_hour(points) == pytest.approx(2, abs=0.01)


def test_what_shrinks_has_a_negative_slope_and_what_stays_has_none() -> None:
    assert soak.slope_per_hour([(0, 10), (HOUR_S, 7)]) == pytest.approx(-3)
    assert soak.slope_per_hour([(0, 10), (HOUR_S, 10), (2 * HOUR_S, 10)]) == 0


@pytest.mark.parametrize("points", [[], [(5.0, 60.0)]])
def test_less_than_two_points_have_no_slope(points: list[tuple[float, float]]) -> None:
    assert soak.slope_per_hour(points) == 0


def test_the_first_tenth_of_the_time_is_left_out() -> None:
    samples = [replace(NOTHING, at_s=float(at)) for at in range(0, 101, 5)]
    assert [one.at_s for one in soak.warmed_up(samples)] == [float(at) for at in range(10, 101, 5)]


def test_the_report_has_value_and_slope_of_each_figure_and_the_last_totals() -> None:
    samples = [
        replace(
            NOTHING, at_s=at * HOUR_S, memory_mb=60 + at / 2, descriptors=90 - at, requests=at * 10, failed=at
        )
        for at in range(11)
    ]
    rows = {row.what: row.value.median for row in soak.report(samples).rows}
    assert rows["memory"] == pytest.approx(62.75)  # of hours 1 to 10
    assert rows["memory, slope"] == pytest.approx(0.5)
    assert rows["descriptors, slope"] == pytest.approx(-1)
    assert rows["threads, slope"] == 0
    assert rows["failed requests"] == 10
