"""What is written down of a soak: one JSON document a line, as it happens, so that nothing is lost."""

import gzip
import json
import statistics
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.holdings import Holdings, Process

FORMAT: Final = 1


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share lies, 0 where there is none."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one kind of thing since the sample before."""

    count: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, took_ms: Sequence[float]) -> "Latency":
        return cls(
            count=len(took_ms),
            p50_ms=round(statistics.median(took_ms), 3) if took_ms else 0.0,
            p99_ms=round(quantile(took_ms, 0.99), 3),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSample:
    """One agent at one moment. Counters count from its start."""

    holdings: Holdings
    mailboxes: dict[str, int]  # role → messages that wait
    restarts: int  # of actors
    rotations: int
    epoch: int  # of the newest Envoy
    log_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at_s: float  # since the begin
    agents: dict[str, AgentSample]
    latencies: dict[str, Latency]
    failed: int  # requests, since the begin
    rejected: int  # pushes that Envoy refused, since the begin
    unaccepted: int  # pushes that nobody accepted in time, since the begin
    unanswered: int = 0  # probes that did not get a 200, since the begin
    load: float  # the machine's, of one minute
    own_cpu_s: float  # of this program, with control plane and application


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """Something that was done to an agent, or that went wrong."""

    at_s: float
    what: str  # "actor killed", "hot restart", "request failed", …
    agent: str = ""
    detail: str = ""
    took_ms: float = 0.0  # until it was over, where that was awaited


@dataclass(slots=True, kw_only=True)
class Record:
    """A whole soak."""

    conditions: dict[str, Any] = field(default_factory=dict)  # Any: JSON
    samples: list[Sample] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)


class Writer:
    """Appends to a record and to its file, from any thread."""

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:  # Any: JSON
        self.record = Record(conditions=conditions)
        self._lock = threading.Lock()
        self._file = path.open("w", encoding="utf-8")
        self._put({"format": FORMAT, "conditions": conditions})

    def sample(self, one: Sample) -> None:
        self.record.samples.append(one)
        self._put({"sample": asdict(one)})

    def happened(self, one: Happened) -> None:
        self.record.happened.append(one)
        self._put({"happened": asdict(one)})

    def close(self) -> None:
        self._file.close()

    def _put(self, document: dict[str, Any]) -> None:  # Any: JSON
        with self._lock:
            self._file.write(json.dumps(document, ensure_ascii=False) + "\n")
            self._file.flush()


def read(path: Path) -> Record:
    """Return the record in a file, packed (.gz) or not.

    Raises:
        ValueError: it is no record, or of another format.
        OSError: it cannot be read.
    """
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    first, *lines = [json.loads(line) for line in text.splitlines()]
    if first.get("format") != FORMAT:
        raise ValueError(f"{path}: format {first.get('format')!r}, wanted {FORMAT}")
    return Record(
        conditions=first["conditions"],
        samples=[_sample(line["sample"]) for line in lines if "sample" in line],
        happened=[Happened(**line["happened"]) for line in lines if "happened" in line],
    )


def _sample(document: dict[str, Any]) -> Sample:  # Any: JSON
    agents = {
        name: AgentSample(**agent | {"holdings": holdings(agent["holdings"])})
        for name, agent in document["agents"].items()
    }
    latencies = {name: Latency(**one) for name, one in document["latencies"].items()}
    return Sample(**document | {"agents": agents, "latencies": latencies})


def holdings(document: dict[str, Any]) -> Holdings:  # Any: JSON
    processes = {name: Process(**one) for name, one in document["processes"].items()}
    return Holdings(**document | {"processes": processes})
