"""How fast something grows, and how sure that is: the arithmetic of the soak and of the rotations.

A sample of a running system is no independent draw: garbage collectors, hot restarts and killed actors make
waves. So samples are averaged over blocks as long as the longest wave, a line is fitted through the blocks'
means, and what correlation is left between neighbours widens the interval.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

Points = Sequence[tuple[float, float]]  # (seconds, value)

_Z: Final = 1.959964  # of the normal distribution, for 95 % in the middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Growth in an hour with its 95 % interval, from so many blocks. Without enough blocks it is (-∞, ∞)."""

    per_hour: float
    low: float
    high: float
    blocks: int

    def __str__(self) -> str:
        return f"{self.per_hour:+.3g} ({self.low:+.3g} to {self.high:+.3g})"


def blocks(points: Points, width_s: float) -> list[tuple[float, float]]:
    """Return mean time and mean value of each block of `width_s`, counted from the first point.

    A last block that is less than half full is left out.
    """
    if not points:
        return []
    parts: dict[int, list[tuple[float, float]]] = {}
    for at_s, value in points:
        parts.setdefault(int((at_s - points[0][0]) // width_s), []).append((at_s, value))
    full = max(map(len, parts.values()))
    return [
        (statistics.fmean(at_s for at_s, _ in part), statistics.fmean(value for _, value in part))
        for part in parts.values()
        if len(part) * 2 >= full
    ]


def slope(points: Points) -> Slope:
    """Return by how much a value grows in an hour: least squares, with Student's interval.

    The interval is widened by the correlation of neighbouring residuals (r): as if there were only
    n (1 - r) / (1 + r) blocks.
    """
    count = len(points)
    if count < 2:
        return Slope(per_hour=0.0, low=-math.inf, high=math.inf, blocks=count)
    hours, values = [at_s / 3600 for at_s, _ in points], [value for _, value in points]
    line = statistics.linear_regression(hours, values)
    rest = [value - line.slope * at - line.intercept for at, value in zip(hours, values, strict=True)]
    free = _effective(rest) - 2
    squares = math.fsum(one * one for one in rest)
    if squares < 1e-18:
        margin = 0.0 if count > 2 else math.inf
    elif free < 1:
        margin = math.inf
    else:
        middle = statistics.fmean(hours)
        spread = math.fsum((at - middle) ** 2 for at in hours)
        margin = student(free) * math.sqrt(squares / free / spread)
    return Slope(per_hour=line.slope, low=line.slope - margin, high=line.slope + margin, blocks=count)


def student(free: float) -> float:
    """Return the 97.5 % quantile of Student's distribution (Cornish-Fisher; within 2 % from 3 on).

    Below three degrees of freedom it is far more than any table says, so that nobody concludes from them.
    """
    if free < 3:
        return math.inf
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )


def _effective(rest: Sequence[float]) -> float:
    """Return the number of independent residuals that these are worth."""
    squares = math.fsum(one * one for one in rest)
    if not squares:
        return float(len(rest))
    r = max(0.0, math.fsum(one * other for one, other in pairwise(rest)) / squares)
    return len(rest) * (1 - r) / (1 + r)
