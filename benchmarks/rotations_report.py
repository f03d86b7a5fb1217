"""The report of a row of rotations: what was lost, what grew, a picture; out of its JSON alone."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.holdings import Holdings, Process
from benchmarks.pages import Picture, Section, Table, markdown
from benchmarks.plots import Line, NoPlotsError, Panel, draw
from benchmarks.slopes import blocks, slope
from benchmarks.soak.record import holdings

_KIB_MB: Final = 1024 / 1e6
_WARM_UP: Final = 0.2
_BLOCKS: Final = 20
_FEWEST: Final = 10

Held = tuple[float, int, Holdings]  # seconds, rotations, what was held


def write(found: dict[str, Any], out: Path, name: str) -> None:  # Any: JSON
    """Write NAME.md, and NAME.png where matplotlib is there."""
    held = [(one["at_s"], one["rotations"], holdings(one["holdings"])) for one in found["held"]]
    sections = [Section(title="What was lost", table=_lost(found)), _growth(held)]
    try:
        draw(out / f"{name}.png", list(_panels(held)))
    except NoPlotsError as error:
        print(error)
    else:
        picture = Picture(file=out / f"{name}.png", alternative="what the agent held")
        sections.append(Section(title="What the agent held", picture=picture))
    told = tuple(f"{key}: {value}" for key, value in found["conditions"].items())
    sections.append(Section(title="Conditions", text=told))
    title = f"{found['rotations']} rotations with policy {found['policy']}"
    (out / f"{name}.md").write_text(markdown(title, sections), encoding="utf-8")


def read(path: Path) -> dict[str, Any]:  # Any: JSON
    """Return what a run has written.

    Raises:
        ValueError: it is no such file.
        OSError: it cannot be read.
    """
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    missing = {"policy", "rotations", "held", "conditions"} - found.keys()
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(sorted(missing))}")
    return found


def _lost(found: dict[str, Any]) -> Table:  # Any: JSON
    rate = found["rotations"] / found["duration_s"]
    rows = (
        ("rotations", f"{found['rotations']} in {found['duration_s'] / 60:.1f} minutes, {rate:.1f} a second"),
        ("serial numbers that Envoy's /certs never showed", str(len(found["missed_in_certs"]))),
        ("of them not seen in a handshake either", str(len(found["missed"]))),
        ("handshakes", str(found["handshakes"])),
        ("handshakes that failed", str(len(found["failed_handshakes"]))),
        ("requests", str(found["requests"])),
        ("requests that failed", str(len(found["failed_requests"]))),
        ("hot restarts", str(found["hot_restarts"])),
        ("actors that were restarted", str(found["actor_restarts"])),
    )
    return Table(head=("what", "how many"), rows=rows)


def _growth(held: Sequence[Held]) -> Section:
    warm = [one for one in held if one[0] >= _WARM_UP * held[-1][0]]
    width_s = max((warm[-1][0] - warm[0][0]) / _BLOCKS, 1.0)
    rows = []
    for what, value in _values():
        means = blocks([(at_s, value(each)) for at_s, _, each in warm], width_s)
        if len(means) < _FEWEST:
            continue
        cells = (means[0][1], means[-1][1], max(value(each) for _, _, each in warm))
        rows.append((what, *(f"{cell:.4g}" for cell in cells), str(slope(means))))
    text = (
        f"Slopes by least squares through the means of {_BLOCKS} blocks, with 95 % intervals "
        "(see benchmarks/slopes.py); the first fifth is left out."
    )
    head = ("what", "first block", "last block", "highest", "slope per hour (95 %)")
    return Section(title="What grew", text=(text,), table=Table(head=head, rows=tuple(rows)))


def _values() -> Iterator[tuple[str, Callable[[Holdings], float]]]:
    def total(value: Callable[[Process], float]) -> Callable[[Holdings], float]:
        return lambda each: sum(map(value, each.processes.values()))

    yield "own memory, MB", total(lambda one: one.own_kib * _KIB_MB)
    yield "PSS, MB", total(lambda one: one.pss_kib * _KIB_MB)
    yield "memory files, MB", lambda each: each.memory_files_kib * _KIB_MB
    yield "descriptors", total(lambda one: one.descriptors)
    yield "threads", total(lambda one: one.threads)
    yield "files on the disk", lambda each: each.files
    yield "Envoy, resident, MB", lambda each: each.envoy_kib * _KIB_MB


def _panels(held: Sequence[Held]) -> Iterator[Panel]:
    def line(label: str, value: Callable[[Holdings], float]) -> Line:
        return Line(label=label, points=[(number, value(each)) for _, number, each in held])

    values = dict(_values())
    yield Panel(
        title="memory of supervisor and actors",
        unit="MB",
        lines=(line("own memory", values["own memory, MB"]), line("PSS", values["PSS, MB"])),
        x="rotations",
    )
    yield Panel(
        title="descriptors and threads",
        unit="",
        lines=tuple(line(name, values[name]) for name in ("descriptors", "threads", "files on the disk")),
        x="rotations",
    )
    yield Panel(
        title="Envoy itself",
        unit="MB",
        lines=(line("resident", values["Envoy, resident, MB"]),),
        x="rotations",
    )
