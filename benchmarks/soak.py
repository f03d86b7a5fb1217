"""Whether anything grows over hours: one sidecar's agent with a real Envoy, and all that goes on in a day.

    python -m benchmarks.soak [--hours N | --minutes N] [--every SECONDS] [--json FILE]

Requests flow through gateway and sidecar all the time, on a connection that is kept and on new ones. Every
`--every` seconds the control plane pushes another split of reviews, the token is renewed as a kubelet does
it, and a sample is taken and printed. Certificates last ten minutes, so that there is a rotation with a hot
restart about every five. At the end: each figure with its slope.

It ends with 1 if a request failed, an actor was restarted or a push was rejected; what a slope means is for
a reader: over minutes it is noise, and what comes up to a limit and stays there has one too. Envoy's own
memory, and the lab's, are not counted.

Caveats:
    - Short-lived workers are counted when a sample meets one.
    - The first tenth of the run is left out of the slopes: caches and pools fill.
    - Wants root: the processes that keep secrets are readable for nobody else.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import Report, Row, Spread
from benchmarks.rig import ACCOUNT, agent_for, mesh_on_free_ports, short_directory
from benchmarks.tree_memory import measure, tree
from lab.bookinfo import Bookinfo
from lab.istiod import Istiod
from lab.mesh import Mesh
from tests.support.agent import RealAgent
from tests.support.load import Load
from tests.support.real_envoy import get

_MB: Final = 1_000_000
_CERTIFICATE: Final = "600s"
_PAUSE_S: Final = 0.05  # of each of the two clients, between its requests
_WARM_UP: Final = 0.1  # of the whole time
_SPLITS: Final = ({"v1": 50, "v3": 50}, {"v2": 100})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one look found, over supervisor and actors; counters count from the begin."""

    at_s: float
    memory_mb: float  # PSS and memory files
    descriptors: int
    threads: int
    restarts: int  # of actors
    epoch: int  # of the newest Envoy: hot restarts so far
    requests: int
    failed: int
    rejected: int  # pushes

    def __str__(self) -> str:
        return (
            f"{self.at_s:7.0f} s  {self.memory_mb:6.2f} MB  {self.descriptors:4} descriptors  "
            f"{self.threads:3} threads  {self.restarts} restarts  epoch {self.epoch:2}  "
            f"{self.requests} requests, {self.failed} failed  {self.rejected} pushes rejected"
        )


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Return by how much a value grows in an hour: least squares over (seconds, value), 0 for less than two.

    Raises:
        ValueError: all points are of the same moment.
    """
    if len(points) < 2:
        return 0.0
    hours = [at_s / 3600 for at_s, _ in points]
    return statistics.linear_regression(hours, [value for _, value in points]).slope


def warmed_up(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples after the first tenth of the time."""
    begin_s = samples[-1].at_s * _WARM_UP
    return [one for one in samples if one.at_s >= begin_s]


def run(duration_s: float, every_s: float) -> list[Sample]:
    """Let it run, print each sample, and return them all; Ctrl-C ends it early."""
    samples = []
    with contextlib.suppress(KeyboardInterrupt):
        for sample in _live(duration_s, every_s):
            print(sample, flush=True)
            samples.append(sample)
    return samples


def report(samples: Sequence[Sample]) -> Report:
    warm = warmed_up(samples)
    rows = [
        *_figure("memory", "MB", warm, lambda one: one.memory_mb),
        *_figure("descriptors", "", warm, lambda one: one.descriptors),
        *_figure("threads", "", warm, lambda one: one.threads),
    ]
    last = samples[-1]
    totals = {"restarts": last.restarts, "failed requests": last.failed, "rejected pushes": last.rejected}
    rows += [Row(what=what, unit="", value=Spread.of([count]), target="0") for what, count in totals.items()]
    seen = f"{last.at_s / 60:.1f} minutes, {len(samples)} samples, {len(warm)} of them in the slopes"
    return Report(
        question="what grows over time, of supervisor and six actors",
        rows=tuple(rows),
        notes=(f"{seen}; {last.requests} requests, Envoy's last epoch {last.epoch}",),
    )


def _figure(
    what: str, unit: str, samples: Sequence[Sample], value: Callable[[Sample], float]
) -> tuple[Row, Row]:
    slope = slope_per_hour([(one.at_s, value(one)) for one in samples])
    return (
        Row(what=what, unit=unit, value=Spread.of([value(one) for one in samples])),
        Row(what=f"{what}, slope", unit=f"{unit}/h", value=Spread.of([slope])),
    )


def _live(duration_s: float, every_s: float) -> Iterator[Sample]:
    mesh = mesh_on_free_ports()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        istiod = stack.enter_context(Istiod(mesh))
        stack.enter_context(Bookinfo(mesh))
        router = agent_for(istiod, directory / "router", role="router", account="istio-ingressgateway")
        sidecar = agent_for(istiod, directory / "sidecar", environment={"SECRET_TTL": _CERTIFICATE})
        for agent in (stack.enter_context(router), stack.enter_context(sidecar)):
            agent.wait_ready()
        load = stack.enter_context(Load(mesh.gateway.listen.port, "/productpage", pause_s=_PAUSE_S))
        yield from _samples(istiod, mesh, (sidecar, router), load, duration_s=duration_s, every_s=every_s)


def _samples(
    istiod: Istiod,
    mesh: Mesh,
    agents: tuple[RealAgent, RealAgent],
    load: Load,
    *,
    duration_s: float,
    every_s: float,
) -> Iterator[Sample]:
    began_s = time.monotonic()
    for number in range(int(duration_s // every_s) + 1):
        time.sleep(max(0.0, began_s + number * every_s - time.monotonic()))
        yield _look(agents[0], istiod, load, time.monotonic() - began_s)
        istiod.push(mesh.with_split("reviews", _SPLITS[(number + 1) % 2]))
        for agent, account in zip(agents, (ACCOUNT, "istio-ingressgateway"), strict=True):
            istiod.provision(agent.directory, "default", account)


def _look(agent: RealAgent, istiod: Istiod, load: Load, at_s: float) -> Sample:
    assert agent.process is not None
    status = json.loads(get(agent.status_port, "/status")[1])
    counts = istiod.observed.counts
    descriptors = threads = 0
    for pid in tree(agent.process.pid):
        with contextlib.suppress(OSError):  # a worker that has just ended
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
    return Sample(
        at_s=at_s,
        memory_mb=measure(agent.process.pid).total / _MB,
        descriptors=descriptors,
        threads=threads,
        restarts=sum(actor["restarts"] for actor in status["actors"]),
        epoch=max((envoy["epoch"] for envoy in status["envoys"] if envoy["state"] != "ended"), default=-1),
        requests=load.sent,
        failed=len(load.failures),
        rejected=sum(count for (verdict, _), count in tuple(counts.items()) if verdict == "nack"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Does anything grow?")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=1.0, metavar="N")
    length.add_argument("--minutes", type=float, metavar="N")
    parser.add_argument("--every", type=float, default=15.0, metavar="SECONDS", help="between two samples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write report and samples there")
    options = parser.parse_args(arguments)
    duration_s = (options.minutes or options.hours * 60) * 60
    if not 0 < options.every <= duration_s / 2:
        parser.error(f"--every {options.every:g}: wanted at least three samples in {duration_s:g} s")
    samples = run(duration_s, options.every)
    if not samples:
        return 130
    result = report(samples)
    print(result)
    if options.json is not None:
        document = result.as_json() | {"samples": [asdict(one) for one in samples]}
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    last = samples[-1]
    return 1 if last.failed or last.restarts or last.rejected else 0


if __name__ == "__main__":
    sys.exit(main())
