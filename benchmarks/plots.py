"""Small pictures of what was measured, as PNG. Wants matplotlib (extra "plots"), which no agent has.

A panel has one unit on its axis; what belongs together is drawn in one panel.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

Points = Sequence[tuple[float, float]]

_DPI: Final = 80
_WIDTH_INCHES: Final = 9.0
_ROW_INCHES: Final = 2.3
_COLOURS_KEPT: Final = 48
_COLOURS: Final = ("#3366aa", "#cc6633", "#2a9d6f", "#a03a6a", "#8a7a1f", "#5a5a5a", "#6a4fb3", "#c0392b")


class NoPlotsError(Exception):
    """matplotlib is not there; the text says how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    label: str
    points: Points
    is_faint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, with what its thin line spans: lowest and highest."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Lines over time (`x` is its name), or bars."""

    title: str
    unit: str
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    x: str = "minutes"
    marks: tuple[float, ...] = field(default=())  # where something happened, thin vertical lines
    is_logarithmic: bool = False
    limit: float | None = None  # the target, a dashed line


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write the panels, one below the other, into one PNG.

    Raises:
        NoPlotsError: matplotlib is not installed.
    """
    pyplot = _pyplot()
    heights = [_ROW_INCHES if panel.lines else 0.9 + 0.3 * len(panel.bars) for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(_WIDTH_INCHES, sum(heights)),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        axis.set_title(panel.title, fontsize=9, loc="left")
        axis.grid(visible=True, linewidth=0.4, color="#dddddd")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        (_draw_lines if panel.lines else _draw_bars)(axis, panel)
    figure.tight_layout()
    whole = io.BytesIO()
    figure.savefig(whole, dpi=_DPI, metadata={"Software": None})
    pyplot.close(figure)
    _reduced(whole).save(path, optimize=True)


def embedded(path: Path, alternative: str) -> str:
    """Return an HTML image that has the picture in itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{alternative}" src="data:image/png;base64,{data}">'


def _pyplot() -> Any:  # Any: matplotlib brings no types that are checked here
    try:
        import matplotlib as mpl  # noqa: PLC0415  # heavy, and not in every environment
    except ImportError as error:
        raise NoPlotsError("no pictures: matplotlib is missing (pip install '.[plots]')") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # behind the choice of its back end

    return plt


def _reduced(whole: io.BytesIO) -> Any:  # Any: as above
    """Return the picture with few colours: a third of the bytes."""
    from PIL import Image  # noqa: PLC0415  # comes with matplotlib

    return Image.open(whole).convert("RGB").quantize(_COLOURS_KEPT)


def _draw_lines(axis: Any, panel: Panel) -> None:
    for number, line in enumerate(panel.lines):
        axis.plot(
            [x for x, _ in line.points],
            [y for _, y in line.points],
            label=line.label,
            color=_COLOURS[number % len(_COLOURS)],
            linewidth=0.7 if line.is_faint else 1.1,
            alpha=0.5 if line.is_faint else 1.0,
        )
    for mark in panel.marks:
        axis.axvline(mark, color="#bbbbbb", linewidth=0.5)
    if panel.is_logarithmic:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_ylabel(panel.unit, fontsize=8)
    axis.set_xlabel(panel.x, fontsize=8)
    axis.legend(fontsize=7, ncols=4, frameon=False, loc="best")


def _draw_bars(axis: Any, panel: Panel) -> None:
    labels, at = [bar.label for bar in panel.bars], list(range(len(panel.bars)))
    values = [bar.value for bar in panel.bars]
    around = [
        [max(bar.value - bar.low, 0.0) for bar in panel.bars],
        [max(bar.high - bar.value, 0.0) for bar in panel.bars],
    ]
    axis.barh(at, values, xerr=around, color=_COLOURS[0], height=0.6, error_kw={"linewidth": 0.8})
    for y, bar in zip(at, panel.bars, strict=True):
        axis.annotate(
            f"{bar.value:.3g}", (bar.high, y), (4, 0), textcoords="offset points", va="center", fontsize=7
        )
    axis.set_yticks(at, labels, fontsize=8)
    axis.invert_yaxis()
    if panel.is_logarithmic:
        axis.set_xscale("log")
    if panel.limit is not None:
        axis.axvline(panel.limit, color=_COLOURS[7], linewidth=0.8, linestyle="--")
    axis.set_xlabel(panel.unit, fontsize=8)
    axis.margins(x=0.12)
