"""What the agent's processes hold: idle, at the peak of big pushes, and some seconds after them.

A real Envoy gets its configuration from the lab's istiod through the agent. Then the lab pushes 500
clusters, padded to the wanted size with metadata that Envoy keeps and does not read; Envoy's ACK is
awaited; once 10 MB and four times 50, never twice the same. Counted are the supervisor and its actors: PSS
of each process (`smaps_rollup`) and the pages of their memory files. Envoy counts for itself.

Caveats:
    - PSS divides a library's pages among all processes of the machine that map it, and the lab and this
      program map some. "alone" counts the tree's page frames, each once: what a pod would see.
    - MB are 10^6 bytes.
    - The peak is the highest of samples that begin each 5 ms, or when the one before is read; a shorter one
      is missed. A row tells how far apart they were. The processes through which a push goes are looked at in
      each, the others each 100 ms.
    - What stands in the kernel's socket buffers is no process's, and is not counted.
    - Wants root: the processes that keep secrets are readable for nobody else.
"""

import time
from dataclasses import dataclass
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2

from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from benchmarks.tree_memory import TreeMemory, alone, measure, peak_of
from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.resources import build_snapshot
from lab.snapshot import CDS, Resource, Snapshot, World, everyone_sees

_PUSHES_MB: Final = (10, 50, 50, 50, 50)
_CLUSTERS: Final = 500
_SETTLE_S: Final = 6.0
_MB: Final = 1_000_000
_TARGETS: Final = {
    "idle": "≤ 62",
    "after 4 x 50 MB / idle": "≤ 1.25",
    "peak at 50 MB, above idle / message": "≤ 4",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One agent's life: figures by name, and what each process held when idle and at the highest peak."""

    figures: dict[str, float]
    idle: TreeMemory
    peak: dict[str, float]


def run(repeat: int = 3) -> Report:
    """Measure `repeat` fresh agents."""
    runs = [_one_life() for _ in range(repeat)]
    rows = tuple(
        Row(
            what=name,
            unit=_unit(name),
            value=Spread.of([one.figures[name] for one in runs]),
            target=_TARGETS.get(name, ""),
        )
        for name in runs[0].figures
    )
    parts = ", ".join(f"{name} {size / _MB:.1f}" for name, size in runs[-1].idle.pss.items())
    high = ", ".join(
        f"{name} {size / _MB:.1f}" for name, size in runs[-1].peak.items() if name.startswith("peak of")
    )
    return Report(
        question="memory of supervisor and six actors, Envoy apart",
        rows=rows,
        notes=(f"idle, by process (MB of PSS): {parts}; memory files {runs[-1].idle.files / _MB:.2f}", high),
    )


def _unit(name: str) -> str:
    if "," in name and name.endswith("ms"):
        return "ms"
    return "ratio" if "/" in name else "MB"


def _one_life() -> _Run:
    mesh = mesh_on_free_ports()
    with (
        short_directory() as directory,
        Istiod(mesh) as istiod,
        agent_for(istiod, directory / "agent") as agent,
    ):
        agent.wait_ready()
        assert agent.process is not None
        return _pushed(istiod, mesh, agent.process.pid)


def _pushed(istiod: Istiod, mesh: Mesh, pid: int) -> _Run:
    time.sleep(_SETTLE_S)
    idle = measure(pid)
    figures = {"idle": idle.total / _MB, "idle, alone": alone(pid) / _MB}
    peaks: dict[int, dict[str, float]] = {}
    for number, size_mb in enumerate(_PUSHES_MB):
        with peak_of(pid) as peak:
            _push(istiod, padded(mesh, size_mb * _MB + number * _CLUSTERS))
            time.sleep(_SETTLE_S)
        peaks[size_mb] = max(peaks.get(size_mb, peak), peak, key=lambda one: one["peak"])
        figures["between two samples, ms"] = peak["seconds"] / peak["samples"] * 1e3
        after = measure(pid).total
        times = _PUSHES_MB[: number + 1].count(size_mb)
        name = f"after {times} x {size_mb} MB" if times > 1 else f"after {size_mb} MB"
        figures[name] = after / _MB
        figures[f"{name} / idle"] = after / idle.total
    figures["after all, alone"] = alone(pid) / _MB
    for size_mb, highest in peaks.items():
        figures[f"peak at {size_mb} MB"] = highest["peak"] / _MB
        figures[f"peak at {size_mb} MB, above idle / message"] = (highest["peak"] - idle.total) / (
            size_mb * _MB
        )
    return _Run(figures=figures, idle=idle, peak=peaks[_PUSHES_MB[-1]])


def padded(mesh: Mesh, size_bytes: int) -> World:
    """Return the mesh's world with clusters that nobody uses, about `size_bytes` in sum."""
    known = build_snapshot(mesh, "sidecar").by_type
    resources = [one for by_name in known.values() for one in by_name.values()]
    share = size_bytes // _CLUSTERS
    return everyone_sees(Snapshot.of(*resources, *(_padding(at, share) for at in range(_CLUSTERS))))


def _padding(at: int, size_bytes: int) -> Resource:
    cluster = cluster_pb2.Cluster(name=f"padding-{at}-{size_bytes}", type=cluster_pb2.Cluster.STATIC)
    cluster.metadata.filter_metadata["padding"]["text"] = "x" * size_bytes
    return Resource.of(cluster.name, CDS, cluster.SerializeToString())


def _push(istiod: Istiod, world: World) -> None:
    """Push and wait until Envoy has accepted it."""
    acks = istiod.observed.acks(CDS)
    istiod.push(world)
    istiod.observed.wait_until(lambda seen: seen.acks(CDS) > acks or seen.nacks(CDS), timeout_s=60)
    assert not istiod.observed.nacks(CDS), istiod.observed.nack_messages()
