"""What a fault is: a name, a way in and out, what it may cut, and what the log must say of it."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tests.chaos.stage import Stage
from tests.chaos.traffic import KINDS
from tests.chaos.watch import Watch
from tests.support.agent import RealAgent

PHASES: Final = ("steady", "start", "push", "rotation", "hot restart", "drain")
ALL: Final = frozenset(KINDS)
NOTHING: Final[frozenset[str]] = frozenset()
THROUGH_ROUTER: Final = ALL - {"dns", "wasm"}
SERVING: Final = frozenset({"hot-restart", "sds", "files"})
"""The variants without a faked clock: what is killed under libfaketime may hold its lock."""


@dataclass(kw_only=True)
class Strike:
    """One injection of a fault: whom it strikes, and what it did, for the oracle."""

    stage: Stage
    agent: RealAgent
    watch: Watch  # of that agent
    killed: list[tuple[str, int, float]] = field(default_factory=list)  # (role, pid, when): must be back
    hung: set[int] = field(default_factory=set)  # of these pids, those that somebody has to end
    by_heartbeat: bool = False  # that is the heartbeat
    ended: bool = False  # the agent ended with it, and is to be started again
    told: list[str] = field(default_factory=list)  # patterns beside the fault's own


Way = Callable[[Strike], AbstractContextManager[None]]
W = TypeVar("W", bound=Callable[[Strike], Iterator[None]])


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Injected on entering `way`, cured on leaving it.

    A failed request is *cut* when its kind is in `cuts` and it was under way between the injection and the
    first readiness after the cure; every other one is *failed*. (The phases have cuts of their own.)
    """

    name: str
    way: Way
    lasts_s: tuple[float, float] = (0.0, 0.0)  # between injection and cure, drawn
    cuts: frozenset[str] = NOTHING
    aborts: bool = False  # an Envoy in a hot restart aborts where the socket of its parent is gone
    told: str = ""  # regular expression for the agent's log; empty: there is nothing it could say
    told_in: frozenset[str] = frozenset(PHASES)  # phases in which there is something to be said
    phases: frozenset[str] = frozenset(PHASES)
    variants: frozenset[str] = SERVING
    wants_mounts: bool = False
    may_end: bool = False  # the agent may end with one clear error; the kubelet starts it again
    readiness_tells: bool = True  # else it cuts until everything is as it was: readiness does not speak of it
    heals_within_s: float = 15.0  # from the cure to everything as it was
    router_too: bool = False  # it may strike the gateway as well
    weight: float = 1.0


_known: dict[str, Fault] = {}


def fault(name: str, **facts: object) -> Callable[[W], W]:
    """Register a generator function as the way of a fault: before its `yield` in, after it out."""

    def register(function: W) -> W:
        add(Fault(name=name, way=contextmanager(function), **facts))  # type: ignore[arg-type]  # checked by Fault
        return function

    return register


def add(made: Fault) -> None:
    assert made.name not in _known, made.name
    if made.told:
        re.compile(made.told)
    _known[made.name] = made


def catalogue() -> dict[str, Fault]:
    """Return all faults by name, in the order in which they were told."""
    from tests.chaos import (  # noqa: F401  # each registers its own
        faults_of_actors,
        faults_of_certificates,
        faults_of_envoy,
        faults_of_files,
        faults_of_istiod,
        faults_of_limits,
    )

    return dict(_known)
