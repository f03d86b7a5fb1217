"""What must be true whatever failed, and the words for what is not.

A request *failed* when nothing excuses it. It was *cut*, which is allowed, when
 - its kind is one that the fault (or the step in which it struck) may cut,
 - and it was under way at some moment between the step's begin and the first readiness after the cure;
 - with the policy hot-restart a kept TCP connection may also end when the old epoch of a hot restart ends;
 - a connection in the accept queue of an Envoy that cannot be drained may be reset: it was under way when
   that Envoy ended, and the log tells of an overlapping start;
 - an Envoy aborts by itself when it finds, during a hot restart, that its parent's socket was deleted: what
   was under way from a second before that until the next readiness, where the fault deletes sockets and the
   log has it.

Readiness was a lie when the agent said 200 while it had no Envoy, or when a request to it began after it had
said so for good and failed: that request counts as failed.
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.faults import Fault, Strike
from tests.chaos.phases import Phase
from tests.chaos.stage import Stage
from tests.chaos.traffic import Failure
from tests.chaos.watch import ENVOY, Watch
from tests.support.agent import RealAgent, stack

BACK_S: Final = 1.0
HEARTBEAT_S: Final = 10.0

_LOOK_S: Final = 0.1  # what our own look may add
_AFTER_END_S: Final = 0.2
_SLACK: Final = {"supervisor": 6, "": 10}
"""Descriptors that may come and go: streams of Envoy, a worker's socket, a probe's connection."""

_EXPECTED: Final = re.compile(
    r"(XDS|envoy-rev\d*\.json|hr_\w+|hr-base-ids|grpc-bootstrap\.json|identity\.kept|upgrade(-result)?"
    r"|last-known-good.*|ballast)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What held before an act, to compare with afterwards."""

    begin_s: float
    log_size: dict[str, int]
    descriptors: dict[str, int]


@dataclass(slots=True, kw_only=True)
class Found:
    """The outcome of one act."""

    fault: str
    phase: str
    variant: str
    back_s: list[float] = field(default_factory=list)  # each actor, from death or stop to its successor
    whole_s: float = 0.0  # from the cure to everything as it was
    cut: int = 0
    failed: int = 0
    good: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def descriptors(agent: RealAgent) -> dict[str, int]:
    """Return how many each process of the agent has, by its name; what cannot be read is left out."""
    assert agent.process is not None
    found = {"supervisor": agent.process.pid}
    for role in ("cert", "sds", "upstream-xds", "downstream-xds", "health", "envoy", "dns"):
        pid = agent.actor(role)
        if pid is not None:
            found[role] = pid
    counted = {}
    for name, pid in found.items():
        try:
            counted[name] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            continue
    return counted


def truth(stage: Stage, known: dict[str, int]) -> Truth:
    agents = (stage.sidecar, stage.router)
    return Truth(
        begin_s=time.monotonic(),
        log_size={one.directory.name: len(one.log()) for one in agents},
        descriptors=known,
    )


def said(agent: RealAgent, before: Truth) -> str:
    """Return what an agent logged in this act."""
    return agent.log()[before.log_size[agent.directory.name] :]


def sort_failures(
    failures: list[Failure], cuts: frozenset[str], window_s: tuple[float, float], excused: frozenset[str]
) -> tuple[list[Failure], list[Failure]]:
    """Return (cut, failed); `excused`: kinds that hot restarts may cut at any moment."""
    begin_s, whole_s = window_s
    cut: list[Failure] = []
    failed: list[Failure] = []
    for one in failures:
        inside = one.begin_s <= whole_s and one.end_s >= begin_s
        (cut if one.kind in excused or (one.kind in cuts and inside) else failed).append(one)
    return cut, failed


def overlaps(watch: Watch, log: str, since_s: float) -> list[tuple[float, float]]:
    """Return the moments at which an Envoy ended that an overlapping start had left without an admin port."""
    if "a fresh base id beside epoch" not in log:
        return []
    ends = [life.ended_s for life in watch.of(ENVOY) if life.ended_s is not None and life.ended_s >= since_s]
    return [(end_s - 2 * BACK_S, end_s + BACK_S) for end_s in ends]


def aborts(watch: Watch, log: str, since_s: float) -> list[tuple[float, float]]:
    """Return from when to when an Envoy was away that aborted since its parent's socket was deleted."""
    if "hot restart sendmsg() failed" not in log:
        return []
    found = []
    for life in watch.of(ENVOY):
        if life.ended_s is not None and life.ended_s >= since_s:
            answers = (one.end_s for one in watch.answers if one.status == 200 and one.begin_s > life.ended_s)
            found.append((life.ended_s - BACK_S, next(answers, time.monotonic())))
    return found


def back(strike: Strike, log: str) -> Iterator[tuple[float, str]]:
    """Yield for each actor that was struck: seconds until its successor, and what is wrong with that."""
    for role, pid, at_s in strike.killed:
        life = next((one for one in strike.watch.lives if one.pid == pid and one.name == role), None)
        successor = next(
            (one for one in strike.watch.of(role) if one.pid != pid and one.born_s >= at_s - _LOOK_S), None
        )
        if life is None or successor is None:
            yield 0.0, f"{role} {pid} has no successor"
            continue
        ended_s = life.ended_s if life.ended_s is not None else successor.born_s
        waits = [
            float(found)
            for found in re.findall(rf"actor {role} ended: .*; restarting in ([0-9.]+) s\tpid={pid}\b", log)
        ]
        busy_s = _LOOK_S + strike.watch.latest_s(at_s)
        allowed_s = BACK_S + (waits[0] if waits else 0.0) + busy_s
        begin_s = ended_s if pid in strike.hung else at_s
        took_s = successor.born_s - begin_s
        wrong = (
            "" if took_s <= allowed_s else f"{role} was back after {took_s:.2f} s, allowed {allowed_s:.2f}"
        )
        hang_s = ended_s - at_s
        if strike.by_heartbeat and pid in strike.hung and hang_s > HEARTBEAT_S + BACK_S + busy_s:
            wrong += f" {role} was ended {hang_s:.2f} s after it hung"
        yield took_s, wrong.strip()


def lies(watch: Watch, since_s: float) -> list[str]:
    """Return where the agent said that it was ready while there was no Envoy at all."""
    lives = watch.of(ENVOY)
    found = []
    for one in watch.answers:
        if one.status != 200 or one.begin_s < since_s:
            continue
        if not any(
            life.born_s - _AFTER_END_S <= one.end_s
            and (life.ended_s is None or life.ended_s + _AFTER_END_S >= one.begin_s)
            for life in lives
        ):
            found.append(f"ready at {one.begin_s:.3f} through port {one.port}, and there was no Envoy")
    return found[:3]


def certificates(agent: RealAgent) -> list[str]:
    """Return the serial numbers that Envoy has; empty when it has lost its secret."""
    return [
        str(chain["serial_number"])
        for entry in json.loads(agent.admin("/certs"))["certificates"]
        for chain in entry.get("cert_chain", ())
    ]


def leaks(agent: RealAgent, known: dict[str, int]) -> list[str]:
    """Return whose descriptors are more than they were, beyond what comes and goes."""
    now = descriptors(agent)
    return [
        f"descriptors of {name}: {count}, at first {known[name]}"
        for name, count in now.items()
        if name in known and count > known[name] + _SLACK.get(name, _SLACK[""])
    ]


def litter(agent: RealAgent) -> list[str]:
    """Return files in the configuration directory that nobody needs any more."""
    folder = agent.directory / "etc/istio/proxy"
    if not folder.is_dir():
        return []
    strange = [each.name for each in folder.iterdir() if not _EXPECTED.fullmatch(each.name)]
    revisions = [each.name for each in folder.glob("envoy-rev*.json") if not each.is_symlink()]
    too_many = revisions if len(revisions) > max(len(agent.envoys()), 1) else []
    sockets = [
        each.name for each in (agent.directory / "var/run/secrets/workload-spiffe-uds").glob("socket.*")
    ]
    return [f"left behind: {name}" for name in (*strange, *too_many, *sockets)]


def stacks(agent: RealAgent, before: Truth) -> list[str]:
    log = said(agent, before)
    return (
        [f"a stack in the log of {agent.directory.name}: {stack(agent)[-1500:]}"]
        if "Traceback" in log
        else []
    )


def told(fault: Fault, phase: Phase, strike: Strike, log: str) -> list[str]:
    """Return what the log should have said and did not."""
    wanted = list(dict.fromkeys(strike.told))
    if fault.told and phase.name in fault.told_in:
        wanted.append(fault.told)
    return [f"the log does not say {pattern!r}" for pattern in wanted if not re.search(pattern, log)]
