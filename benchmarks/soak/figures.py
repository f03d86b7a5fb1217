"""Which series a soak is judged by, with their limits, and what each of them was.

An actor that was killed begins anew, so that its memory says nothing about growth over hours. Therefore:

- the *gateway's* processes, which are never killed, are the series for each actor;
- of the *sidecar*, whose actors are killed, the supervisor is one, and the sum over the tree is one: it holds
  what a killed actor leaves behind;
- "own" memory is anonymous and shared memory (PSS without files): what is counted of a library's pages
  depends on how many other programs map it at the moment. The whole PSS stands beside it, for information.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.holdings import Process
from benchmarks.slopes import Slope, blocks, slope
from benchmarks.soak.record import AgentSample, Record, Sample

BLOCK_S: Final = 180.0  # each actor of the sidecar was killed once, and Envoy was replaced three times
WARM_UP: Final = 0.2  # of the whole time: caches, pools and allocators fill
FEWEST: Final = 10  # blocks that a verdict wants; shorter runs have shorter blocks
PROCESSES: Final = ("supervisor", "sds", "downstream-xds", "envoy", "upstream-xds", "cert", "health")
_KIB_MB: Final = 1024 / 1e6

Value = Callable[[Sample], float | None]  # None: this sample does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Something that must not grow by more than `limit` an hour; None: it is only told."""

    what: str
    unit: str
    limit: float | None
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a series was. `ok` is None where nothing is judged."""

    what: str
    unit: str
    first: float  # mean of the first block
    last: float
    highest: float
    slope: Slope
    limit: float | None
    ok: bool | None

    @property
    def verdict(self) -> str:
        if self.ok is None:
            return ""
        if self.ok:
            return "pass"
        grows = self.limit is not None and self.slope.low > self.limit
        return "FAIL: grows" if grows else "FAIL: not shown that it does not grow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How often something happened that must not happen."""

    what: str
    count: int

    @property
    def ok(self) -> bool:
        return not self.count


def series() -> tuple[Series, ...]:
    return (*_of_agent("gateway", PROCESSES), *_of_agent("sidecar", PROCESSES[:1]), *_latencies())


def _of_agent(name: str, processes: Sequence[str]) -> Iterator[Series]:
    def agent(what: str, unit: str, limit: float | None, value: Callable[[AgentSample], float]) -> Series:
        return Series(
            what=f"{name}: {what}",
            unit=unit,
            limit=limit,
            value=lambda sample: value(sample.agents[name]) if _whole(sample.agents[name]) else None,
        )

    def total(value: Callable[[Process], float]) -> Callable[[AgentSample], float]:
        return lambda one: sum(map(value, one.holdings.processes.values()))

    for process in processes:
        yield agent(f"own memory, {process}", "MB", 0.5, _own(process))
    yield agent("own memory, all processes", "MB", 1.0, total(lambda one: one.own_kib * _KIB_MB))
    yield agent("PSS, all processes", "MB", None, total(lambda one: one.pss_kib * _KIB_MB))
    yield agent("memory files", "MB", 0.1, lambda one: one.holdings.memory_files_kib * _KIB_MB)
    yield agent("descriptors", "", 2.0, total(lambda one: one.descriptors))
    yield agent("threads", "", 2.0, total(lambda one: one.threads))
    yield agent("zombies", "", 0.5, lambda one: one.holdings.zombies)
    yield agent("objects in /dev/shm", "", 0.5, lambda one: one.holdings.shared_memory)
    yield agent("files on the disk", "", 2.0, lambda one: one.holdings.files)
    yield agent("messages that wait in mailboxes", "", 2.0, lambda one: sum(one.mailboxes.values()))


def _own(process: str) -> Callable[[AgentSample], float]:
    return lambda one: one.holdings.processes[process].own_kib * _KIB_MB


def _latencies() -> Iterator[Series]:
    def latency(kind: str, what: str, *, tail: bool) -> Series:
        def value(sample: Sample) -> float | None:
            one = sample.latencies.get(kind)
            return (one.p99_ms if tail else one.p50_ms) if one is not None and one.count else None

        return Series(what=f"{what}, {'p99' if tail else 'p50'}", unit="ms", limit=None, value=value)

    kinds = (
        ("kept", "requests, kept connection"),
        ("new", "requests, new connections"),
        ("pushes", "pushes"),
    )
    for kind, what in kinds:
        yield latency(kind, what, tail=False)
        yield latency(kind, what, tail=True)


def _whole(one: AgentSample) -> bool:
    """Return whether no actor was missing at that moment, killed and not back."""
    return all(name in one.holdings.processes for name in PROCESSES)


def judged(record: Record) -> list[Figure]:
    """Return what each series was, after the warm-up."""
    samples = warmed_up(record.samples)
    return [figure for one in series() if (figure := _judge(one, samples)) is not None]


def warmed_up(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples after the first fifth of the time."""
    begin_s = samples[-1].at_s * WARM_UP if samples else 0.0
    return [one for one in samples if one.at_s >= begin_s]


def block_s(samples: Sequence[Sample]) -> float:
    """Return the width of a block: less than BLOCK_S where there would be too few."""
    return min(BLOCK_S, (samples[-1].at_s - samples[0].at_s) / FEWEST)


def _judge(series: Series, samples: Sequence[Sample]) -> Figure | None:
    points = [(one.at_s, value) for one in samples if (value := series.value(one)) is not None]
    if len(points) < FEWEST:
        return None
    means = blocks(points, block_s(samples))
    found = slope(means)
    return Figure(
        what=series.what,
        unit=series.unit,
        first=means[0][1],
        last=means[-1][1],
        highest=max(value for _, value in points),
        slope=found,
        limit=series.limit,
        ok=None if series.limit is None else found.high <= series.limit,
    )


def counted(record: Record) -> list[Count]:
    """Return what must not have happened, however short the run was."""
    last = record.samples[-1]
    ends = [one for one in record.happened if one.what == "agent ended"]
    return [
        Count(what="requests failed", count=last.failed),
        Count(what="pushes refused by Envoy", count=last.rejected),
        Count(what="pushes not accepted in time", count=last.unaccepted),
        Count(what="probes not answered with 200", count=last.unanswered),
        Count(what="actors that ended by themselves", count=_unasked(record)),
        Count(what="agents that did not end with 0", count=sum("status 0" not in one.detail for one in ends)),
        Count(
            what="what this program could not do", count=sum(one.what == "trouble" for one in record.happened)
        ),
    ]


def _unasked(record: Record) -> int:
    """Return how many actors were restarted that nobody had killed.

    A status page knows of a restart some seconds after the kill: the sample that knows most counts.
    """
    kills = [one.at_s for one in record.happened if one.what == "actor killed"]
    return max(
        sum(one.restarts for one in sample.agents.values()) - sum(at_s <= sample.at_s for at_s in kills)
        for sample in record.samples
    )


def passed(record: Record) -> bool:
    judgements = [one.ok for one in judged(record) if one.ok is not None]
    return bool(judgements) and all(judgements) and all(one.ok for one in counted(record))
