"""What an agent costs that has nothing to do: processor time and wake-ups, beside its own idle Envoy's.

The agent is ready, nobody asks anything, nothing is pushed. Counted are the supervisor, its actors and what
they started meanwhile; Envoy counts for itself.

Caveats:
    - Processor time comes in ticks of 10 ms; of a minute at 0.5 % there are 30.
    - No kubelet asks: each probe of one costs a wake-up or two more.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.holdings import Holdings, look
from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from benchmarks.tree_memory import tree
from lab.istiod import Istiod

_SETTLE_S: Final = 8.0
_WATCH_S: Final = 20.0
_TARGET: Final = "≤ 0.5"


def run(times: int = 3) -> Report:
    """Watch one agent for so many times 20 s."""
    shares: list[float] = []
    envoys: list[float] = []
    wakes: list[float] = []
    with (
        short_directory() as directory,
        Istiod(mesh_on_free_ports()) as istiod,
        agent_for(istiod, directory / "agent") as agent,
    ):
        agent.wait_ready()
        assert agent.process is not None
        pid = agent.process.pid
        time.sleep(_SETTLE_S)
        for _ in range(times):
            before, woken, began_s = look(pid, agent.directory), _woken(pid), time.monotonic()
            time.sleep(_WATCH_S)
            took_s = time.monotonic() - began_s
            after = look(pid, agent.directory)
            shares.append(_percent(before.cpu_s, after.cpu_s, took_s))
            envoys.append(_percent(before.envoy_cpu_s, after.envoy_cpu_s, took_s))
            wakes.append((_woken(pid) - woken) / took_s)
    return Report(
        question="an idle agent",
        rows=(
            Row(
                what="processor time of the agent",
                unit="% of a core",
                value=Spread.of(shares),
                target=_TARGET,
            ),
            Row(what="processor time of its Envoy", unit="% of a core", value=Spread.of(envoys)),
            Row(what="wake-ups of the agent", unit="1/s", value=Spread.of(wakes)),
        ),
        notes=(_processes(after),),
    )


def _percent(before_s: float, after_s: float, took_s: float) -> float:
    return (after_s - before_s) / took_s * 100


def _woken(supervisor: int) -> int:
    """Return how often the threads of the tree gave up a processor by themselves, and so were woken."""
    return sum(_voluntary(status) for pid in tree(supervisor) for status in _threads(pid))


def _threads(pid: int) -> Iterator[Path]:
    yield from Path(f"/proc/{pid}/task").glob("*/status")


def _voluntary(status: Path) -> int:
    try:
        text = status.read_text()
    except OSError:  # the thread has just ended
        return 0
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])


def _processes(seen: Holdings) -> str:
    threads = ", ".join(f"{name} {one.threads}" for name, one in seen.processes.items())
    return f"threads: {threads}"
