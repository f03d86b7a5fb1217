"""At which step of an agent's life a fault strikes; and what the step itself cuts."""

import contextlib
import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.chaos.faults import ALL, NOTHING, Strike
from tests.support.agent import RealAgent
from tests.support.waiting import wait_for

_TCP: Final = frozenset({"tcp-kept"})
"""A connection that Envoy cannot drain ends with the old epoch: the price of a hot restart."""

_SIGNING_WITHIN_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """`begin` returns when the step has begun; then `within_s` later at most the fault strikes (drawn)."""

    name: str
    begin: Callable[[Strike], None]
    within_s: float
    cuts: frozenset[str] = NOTHING
    variants: frozenset[str] = frozenset({"hot-restart", "sds", "files", "clock"})
    ends: bool = False  # the agent ends in it, with 0, and is started again


def _steady(strike: Strike) -> None:
    """Nothing is going on."""


def _start(strike: Strike) -> None:
    """End the agent in order, and start it again in the same directory, as a kubelet starts a container."""
    assert strike.agent.quit(30) == 0, "the exit status of an orderly end"
    strike.agent.start()


def _push(strike: Strike) -> None:
    strike.stage.push()


def _rotation(strike: Strike) -> None:
    """Wait until the CA is asked to sign for the sidecar."""
    seen = strike.stage.istiod.observed
    before = len(seen.csrs)
    with contextlib.suppress(TimeoutError):  # a rotation a moment ago: the fault strikes between two
        seen.wait_until(
            lambda now: any("bookinfo-apps" in one.spiffe_id for one in list(now.csrs)[before:]),
            _SIGNING_WITHIN_S,
        )


def hot_restart(strike: Strike) -> None:
    """Ask for one; nobody may answer."""
    connection = http.client.HTTPConnection("127.0.0.1", strike.agent.status_port, timeout=10)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/restart")
        connection.getresponse().read()
    connection.close()


def _drain(strike: Strike) -> None:
    assert strike.agent.process is not None
    began = len(strike.agent.log())
    strike.agent.process.terminate()
    wait_for(partial(_drains, strike.agent, began), within_s=10, what="the begin of the drain")


def _drains(agent: RealAgent, began: int) -> bool:
    return "Graceful termination period" in agent.log()[began:]


PHASES: Final = {
    one.name: one
    for one in (
        Phase(name="steady", begin=_steady, within_s=0.5),
        Phase(name="start", begin=_start, within_s=1.2, cuts=ALL),
        Phase(name="push", begin=_push, within_s=0.1),
        Phase(
            name="rotation",
            begin=_rotation,
            within_s=0.5,
            cuts=_TCP,
            variants=frozenset({"hot-restart", "sds"}),
        ),
        Phase(
            name="hot restart",
            begin=hot_restart,
            within_s=4.0,
            cuts=_TCP,
            variants=frozenset({"hot-restart", "files"}),
        ),
        Phase(name="drain", begin=_drain, within_s=0.8, cuts=ALL, ends=True),
    )
}


def pause(strike: Strike, limits_s: tuple[float, float]) -> float:
    """Let a drawn time pass, which is the schedule's and no event's; return it."""
    time_s = strike.stage.draw.uniform(*limits_s)
    time.sleep(time_s)
    return time_s
