"""The one table as text and as Markdown, a plot for each question, and their place in docs/."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.plots import Bar, NoPlotsError, Panel, draw

if TYPE_CHECKING:
    from benchmarks.bench import Line

DOCS: Final = Path(__file__).parents[1] / "docs"
RESULTS: Final = Path(__file__).parent / "results"
BEGIN: Final = "<!-- begin: made by bin/bench --publish -->"
END: Final = "<!-- end: made by bin/bench --publish -->"
_HEAD: Final = ("question", "what", "median (lowest to highest)", "unit", "target", "")
_REFERENCE_HEAD: Final = ("the other agent", "ours / the other")


def rows(lines: "Sequence[Line]", *, has_reference: bool) -> list[tuple[str, ...]]:
    """Return head and rows of the table, as text."""
    found: list[tuple[str, ...]] = [_HEAD + (_REFERENCE_HEAD if has_reference else ())]
    for line in lines:
        verdict = line.note or {None: "", True: "met", False: "MISSED"}[line.is_met]
        value = "" if line.value is None else str(line.value)
        cells = [line.question, line.what, value, line.unit, line.target, verdict]
        if has_reference:
            ratio = "" if line.ratio is None else f"{line.ratio:.3g}"
            cells += ["" if line.reference is None else str(line.reference), ratio]
        found.append(tuple(cells))
    return found


def table(lines: "Sequence[Line]", *, has_reference: bool) -> str:
    """Return the table for a terminal."""
    cells = rows(lines, has_reference=has_reference)
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def markdown_table(lines: "Sequence[Line]", *, has_reference: bool) -> str:
    head, *body = rows(lines, has_reference=has_reference)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body))


def write(out: Path, results: dict[str, Any], lines: "Sequence[Line]") -> None:  # Any: JSON
    """Write table.md, results.json and the plots into a directory."""
    text = f"{_conditions(results)}\n\n{markdown_table(lines, has_reference=bool(results['reference']))}\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "results.json").write_text(_json(results), encoding="utf-8")
    plot(out, lines)


def plot(out: Path, lines: "Sequence[Line]") -> list[str]:
    """Draw a picture for each question; return their names, none without matplotlib."""
    drawn = []
    for name in dict.fromkeys(line.question for line in lines):
        panels = list(_panels(name, [line for line in lines if line.question == name]))
        if not panels:
            continue
        try:
            draw(out / f"{name}.png", panels)
        except NoPlotsError as error:
            print(error)
            return []
        drawn.append(f"{name}.png")
    return drawn


def publish(out: Path, results: dict[str, Any], lines: "Sequence[Line]") -> None:  # Any: JSON
    """Put the table into docs/BENCHMARKS.md, the plots into docs/benchmarks, the results into results/."""
    pictures = DOCS / "benchmarks"
    pictures.mkdir(exist_ok=True)
    drawn = plot(pictures, lines)
    day = results["began"].partition(" ")[0]
    kept = RESULTS / f"{day}-bench.json"
    kept.write_text(_json(results), encoding="utf-8")
    missed = [line for line in lines if line.is_met is False]
    parts = [
        BEGIN,
        _conditions(results),
        markdown_table(lines, has_reference=bool(results["reference"])),
        _missed(missed),
        *(f"![{name.removesuffix('.png')}](benchmarks/{name})" for name in drawn),
        f"Raw results: [{kept.name}](../benchmarks/results/{kept.name}).",
        END,
    ]
    page = DOCS / "BENCHMARKS.md"
    page.write_text(replaced(page.read_text(encoding="utf-8"), "\n\n".join(parts)), encoding="utf-8")
    print(f"{page.name}, {len(drawn)} plots and {kept.name} written; kept in {out} as well")


def replaced(page: str, made: str) -> str:
    """Return the page with another part between the two marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"wanted the lines {BEGIN!r} and {END!r}")
    return before + made + after


def _json(results: dict[str, Any]) -> str:  # Any: JSON
    return json.dumps(results, indent=1, ensure_ascii=False) + "\n"


def _missed(lines: "Sequence[Line]") -> str:
    if not lines:
        return "Every target was met in this run."
    told = [f"- {one.question}, {one.what}: {one.value} {one.unit}, wanted {one.target}" for one in lines]
    return "\n".join(["Targets missed in this run:", "", *told])


def _conditions(results: dict[str, Any]) -> str:  # Any: JSON
    loads = [
        turn["report"]["conditions"]["load"].partition(" ")[0] for turn in results["turns"] if turn["report"]
    ]
    told = [f"{name}: {text}" for name, text in results["machine"].items()]
    if loads:
        told.append(f"load after each turn: {min(loads, key=float)} to {max(loads, key=float)}")
    if results["reference"]:
        told.append(f"the other agent: {Path(results['reference']).name}")
    return f"Measured {results['began']}; {'; '.join(told)}."


def _panels(name: str, lines: "Sequence[Line]") -> Iterator[Panel]:
    """Yield a panel for each unit."""
    for unit in dict.fromkeys(line.unit for line in lines if line.value is not None):
        bars = []
        for line in lines:
            if line.unit != unit or line.value is None:
                continue
            bars.append(
                Bar(label=line.what, value=line.value.median, low=line.value.low, high=line.value.high)
            )
            if line.reference is not None:
                other = line.reference
                label = f"{line.what} (the other agent)"
                bars.append(Bar(label=label, value=other.median, low=other.low, high=other.high))
        values = [bar.value for bar in bars if bar.value > 0]
        is_wide = bool(values) and max(values) > 100 * min(values)
        title = f"{name}: {unit or 'counts'}" + (" (logarithmic)" if is_wide else "")
        yield Panel(title=title, unit=unit or "count", bars=tuple(bars), is_logarithmic=is_wide)
