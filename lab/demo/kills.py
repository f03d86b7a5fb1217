"""Kills each actor of the sidecar's agent under load and measures until it is back."""

import os
import signal
import time
from typing import Final

from lab.demo.agent import Agent
from lab.demo.http import Load
from lab.demo.show import StepFailedError, table
from lab.demo.stage import Stage
from lab.demo.waiting import until

ACTORS: Final = ("cert", "sds", "upstream-xds", "downstream-xds", "health", "envoy")
_LOAD_PATH: Final = "/api/v1/products/0"  # gateway → sidecar → productpage → sidecar → details
_BEFORE_S, _AFTER_S = 0.5, 1.0
_BACK_WITHIN_S = 20.0


def kill_each(stage: Stage) -> list[str]:
    """Kill the six in turn; a row each.

    Raises:
        StepFailedError: an actor did not come back, a request failed, or Envoy was restarted.
    """
    agent = stage.sidecar
    envoys = agent.envoys()
    rows: list[tuple[object, ...]] = []
    failures: list[str] = []
    with Load(stage.gateway_port, _LOAD_PATH) as load:
        for role in ACTORS:
            time.sleep(_BEFORE_S)
            before = load.seen()
            old, new, back_ms = _kill(agent, role)
            time.sleep(_AFTER_S)  # what the loss does to requests may show later than the return
            after = load.seen()
            failed = after.failures[len(before.failures) :]
            failures += [f"{role}: {one}" for one in failed]
            rows.append((role, old, new, f"{back_ms:.0f}", after.sent - before.sent, len(failed)))
    shown = table(
        ["actor", "pid killed", "new pid", "back after ms", "requests", "failed"], rows
    ).splitlines()
    if agent.envoys() != envoys:
        raise StepFailedError(
            "\n".join([*shown, f"Envoy got={agent.envoys()} expected={envoys}: it was replaced"])
        )
    if failures:
        raise StepFailedError(
            "\n".join([*shown, f"{len(failures)} requests failed, the first: {failures[0]}"])
        )
    return shown


def _kill(agent: Agent, role: str) -> tuple[int, int, float]:
    """Return the pid killed, the successor's, and the ms from the kill to the successor's Ready."""
    old = agent.actors().get(role)
    if old is None:
        raise StepFailedError(f"no process of actor {role}; there are {dict(agent.actors())}")
    offset = agent.log_bytes()
    began_s = time.monotonic()
    os.kill(old, signal.SIGKILL)
    new = until(
        lambda: _back(agent, role, old, offset),
        what=f"actor {role} back",
        within_s=_BACK_WITHIN_S,
        every_s=0.002,
    )
    return old, new, (time.monotonic() - began_s) * 1000


def _back(agent: Agent, role: str, old: int, offset: int) -> int:
    """Return the successor's pid once it is Ready: as the agent logs it, or as its status page says."""
    new = agent.actors().get(role, old)
    if new == old:
        return 0
    if f"actor {role} is ready again" in agent.log_since(offset):
        return new
    return new if agent.ready_pid(role) == new else 0
