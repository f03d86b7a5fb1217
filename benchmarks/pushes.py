"""How many pushes a second reach Envoy and are accepted: through the agent, beside the same Envoy directly.

A push follows as soon as Envoy has accepted the one before. The small one changes the weights of one route;
the big one is a megabyte of 500 clusters that nobody uses. In turn: an agent with its Envoy, and that Envoy
alone with the lab's ADS and SDS on Unix sockets.

Caveats:
    - The lab's control plane, which is Python, makes each push anew; its share is in both figures.
    - The direct Envoy talks to the control plane without TLS, as the agent's does to the agent.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from benchmarks.memory import padded
from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from benchmarks.startup import Taken, direct, seconds_until
from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.observed import Observed
from lab.snapshot import CDS, RDS, World

_SECONDS: Final = 3.0  # of each kind
_BIG_BYTES: Final = 1_000_000
_SPLITS: Final = ({"v2": 100}, {"v1": 100})  # neither is what the mesh begins with


class Pusher(Protocol):
    """The lab's control plane, either form of it."""

    @property
    def observed(self) -> Observed: ...

    def push(self, world: Mesh | World) -> object: ...


def run(rounds: int = 3) -> Report:
    """Measure so many agents and Envoys alone, in turn."""
    mesh = mesh_on_free_ports()
    small: Sequence[Mesh | World] = [mesh.with_split("reviews", split) for split in _SPLITS]
    big: Sequence[Mesh | World] = [padded(mesh, _BIG_BYTES), padded(mesh, _BIG_BYTES + 5000)]
    found: dict[str, list[float]] = {}

    def note(way: str, pusher: Pusher) -> None:
        for size, worlds, kind in (("small", small, RDS), ("1 MB", big, CDS)):
            found.setdefault(f"{size} pushes, {way}", []).append(_rate(pusher, worlds, kind))

    with short_directory() as directory, Istiod(mesh) as istiod:
        for number in range(rounds):
            istiod.push(mesh)
            with agent_for(istiod, directory / f"agent-{number}") as agent:
                taken = Taken.of(agent.wait_ready())
                note("through the agent", istiod)
            with (
                direct(mesh, istiod, taken, directory / f"direct-{number}") as served,
                _envoy(taken, directory / f"direct-{number}"),
            ):
                note("directly", served)
    return Report(question="pushes accepted, one after the other", rows=tuple(_rows(found)))


def _rows(found: dict[str, list[float]]) -> Iterator[Row]:
    for size in ("small", "1 MB"):
        alone, through = (found[f"{size} pushes, {way}"] for way in ("directly", "through the agent"))
        yield Row(what=f"{size} pushes, directly", unit="1/s", value=Spread.of(alone))
        yield Row(what=f"{size} pushes, through the agent", unit="1/s", value=Spread.of(through))
        ratios = [one / other for one, other in zip(through, alone, strict=True)]
        yield Row(what=f"{size} pushes, agent / direct", unit="ratio", value=Spread.of(ratios))


def _rate(pusher: Pusher, worlds: Sequence[Mesh | World], kind: str) -> float:
    """Return accepted pushes a second."""
    for world in worlds:  # not counted
        _push(pusher, world, kind)
    began_s, count = time.perf_counter(), 0
    while time.perf_counter() - began_s < _SECONDS:
        _push(pusher, worlds[count % 2], kind)
        count += 1
    return count / (time.perf_counter() - began_s)


def _push(pusher: Pusher, world: Mesh | World, kind: str) -> None:
    accepted = pusher.observed.acks(kind)
    pusher.push(world)
    pusher.observed.wait_until(lambda seen: seen.acks(kind) > accepted or seen.nacks(kind), timeout_s=30)
    assert not pusher.observed.nacks(kind), pusher.observed.nack_messages()


@contextmanager
def _envoy(taken: Taken, directory: Path) -> Iterator[None]:
    """Run the Envoy that was taken, alone, from when it is LIVE until the block ends."""
    with (directory / "envoy.log").open("ab") as log:
        envoy = subprocess.Popen(
            taken.command, cwd=directory, env=taken.environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        seconds_until(time.perf_counter(), taken.admin_port, "/ready", b"LIVE")
        yield
    finally:
        envoy.kill()
        envoy.wait(10)
