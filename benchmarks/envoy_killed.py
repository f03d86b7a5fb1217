"""How long until Envoy serves again after a SIGKILL, beside a cold start of the same Envoy served directly.

Serving is the admin port's `GET /ready` saying LIVE: with its configuration from istiod and its certificate.
Kills and cold starts take turns. At the end of it, nothing of the killed Envoys may be left: no process, no
shared memory, no bootstrap file.

Caveats:
    - Each kill comes as soon as Envoy is LIVE again; between two kills a cold start is measured.
    - The admin port of the one measured alone is another: both run at the same time.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

import psutil

from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from benchmarks.startup import Taken, direct, seconds_until, start_envoy
from lab.istiod import Istiod
from tests.support.agent import RealAgent

_SHARED_MEMORY: Final = Path("/dev/shm")  # where Envoy puts it


def run(kills: int = 20) -> Report:
    """Kill so many times."""
    mesh = mesh_on_free_ports()
    back: list[float] = []
    alone: list[float] = []
    with short_directory() as directory, Istiod(mesh) as istiod:
        with agent_for(istiod, directory / "first") as first:
            taken = Taken.of(first.wait_ready())
        with (
            direct(mesh, istiod, taken, directory / "direct"),
            agent_for(istiod, directory / "agent") as agent,
        ):
            agent.wait_ready()
            for _ in range(kills):
                back.append(_killed(agent) * 1e3)
                alone.append(start_envoy(taken, directory / "direct") * 1e3)
            left = _left(agent)
    ratio = Spread.of(back).median / Spread.of(alone).median
    return Report(
        question=f"Envoy killed {kills} times",
        rows=(
            Row(what="cold start of Envoy alone, LIVE", unit="ms", value=Spread.of(alone)),
            Row(what="from the kill to LIVE", unit="ms", value=Spread.of(back)),
            Row(
                what="kill to LIVE / cold start, medians",
                unit="ratio",
                value=Spread.of([ratio]),
                target="≤ 1.3",
            ),
            Row(what="left behind", unit="", value=Spread.of([len(left)]), target="0"),
        ),
        notes=tuple(left[:5]),
    )


def _killed(agent: RealAgent) -> float:
    (envoy,) = agent.envoys()
    started = time.perf_counter()
    envoy.send_signal(signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        while envoy.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.0005)
    return seconds_until(started, agent.admin_port, "/ready", b"LIVE")


def _left(agent: RealAgent) -> list[str]:
    """Return what there is beside the one Envoy that serves and its own files."""
    (envoy,) = agent.envoys()
    words = envoy.cmdline()
    base_id, config = words[words.index("--base-id") + 1], words[words.index("-c") + 1]
    folder = agent.directory / "etc/istio/proxy"
    known = (folder / "hr-base-ids").read_text(encoding="ascii").split()
    extra = [f"base id {each}" for each in known if each != base_id]
    extra += [each.name for each in folder.glob("envoy-rev[0-9]*") if each.name != os.path.basename(config)]  # noqa: PTH119
    extra += [
        each.name for each in _SHARED_MEMORY.glob("envoy_shared_memory_*") if f"_{base_id}0" in each.name
    ][1:]
    return extra + [f"pid {each.pid}" for each in agent.envoys()[1:]]
