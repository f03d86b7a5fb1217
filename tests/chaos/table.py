"""The table at the end: fault, step, how often, back after, cut, failed."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos.oracle import Found


def keep(path: Path, found: Found) -> None:
    """Append one act as a line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(found)) + "\n")


def kept(paths: Iterable[Path]) -> list[Found]:
    return [Found(**json.loads(line)) for path in paths for line in path.read_text().splitlines() if line]


def table(all_found: Sequence[Found]) -> str:
    """Return it as Markdown, by fault and step; `back` is of actors, `whole` of everything after the cure."""
    rows: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for found in all_found:
        rows[found.fault, found.phase].append(found)
    head = "fault | step | times | actors back p50 / max, s | whole after p50 / max, s | good | cut"
    head += " | failed | wrong"
    lines = [
        f"| {head} |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (fault, phase), group in sorted(rows.items()):
        back = [one for found in group for one in found.back_s]
        whole = [found.whole_s for found in group]
        wrong = sum(bool(found.wrong) for found in group)
        counts = (
            sum(one.good for one in group),
            sum(one.cut for one in group),
            sum(one.failed for one in group),
        )
        cells = (fault, phase, len(group), _spread(back), _spread(whole), *counts, wrong)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join((*lines, "", totals(all_found)))


def totals(all_found: Sequence[Found]) -> str:
    back = [one for found in all_found for one in found.back_s]
    return (
        f"{len(all_found)} acts; {sum(one.good for one in all_found)} requests answered, "
        f"{sum(one.cut for one in all_found)} cut, {sum(one.failed for one in all_found)} failed; "
        f"{len(back)} deaths of actors, back after {_spread(back)} s (p50 / max); "
        f"{sum(bool(one.wrong) for one in all_found)} acts with something wrong"
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} / {max(values):.2f}" if values else "-"
