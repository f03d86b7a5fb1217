"""Actors killed, stopped, hung, eating memory: alone, in pairs, all at once; and the supervisor."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from tests.chaos import inside
from tests.chaos.faults import ALL, NOTHING, PHASES, SERVING, Fault, Strike, add, fault
from tests.chaos.stage import ALL_ROLES
from tests.support.waiting import wait_for

_THERE_S: Final = 20.0  # an agent that starts on a busy machine
_ENDED_S: Final = 20.0
"""Who eats or hangs is ended by then; how soon is the oracle's question."""

_WORDS: Final[dict[str, tuple[int, str, tuple[float, float]]]] = {
    "SIGKILL": (signal.SIGKILL, r"actor {role} ended: SIGKILL", (0.0, 0.0)),
    "SIGSTOP": (signal.SIGSTOP, r"watchdog: actor {role}: stopped for", (1.2, 1.2)),
    "memory": (inside.EAT, r"watchdog: actor {role}: private memory got=", (0.0, 0.0)),
    "hang": (inside.HANG, r"watchdog: actor {role}: no answer to a heartbeat for", (0.0, 0.0)),
}


def _strike(strike: Strike, number: int, roles: tuple[str, ...], told: str) -> None:
    """Send the signal to these actors, as near to each other as can be."""
    found = []
    for role in roles:  # one that is being started is waited for
        lives = wait_for(partial(strike.watch.alive, role), within_s=_THERE_S, what=f"actor {role}")
        found.append((role, lives[-1].pid))
    for role, pid in found:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        strike.killed.append((role, pid, time.monotonic()))
        if number in (inside.EAT, inside.HANG):
            strike.hung.add(pid)
            strike.by_heartbeat = number == inside.HANG
        strike.told.append(told.format(role=role))


def _way(how: str, choose: str) -> object:
    number, told, _ = _WORDS[how]

    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        roles = strike.stage.roles(strike.agent)
        if choose == "a pair":
            roles = tuple(strike.stage.draw.sample(roles, 2))
        elif choose != "all":
            roles = (choose,)
        _strike(strike, number, roles, told)
        if strike.hung:
            wait_for(lambda: _all_ended(strike), within_s=_ENDED_S, what=f"the end of {strike.killed}")
        yield

    return way


def _all_ended(strike: Strike) -> bool:
    ended = {life.pid for life in strike.watch.lives if life.ended_s is not None}
    return ended.issuperset(strike.hung)


def _cuts(how: str, whom: str) -> frozenset[str]:
    """A name is not answered while its actor hangs for ten seconds, or eats memory for one or two."""
    return frozenset({"dns"}) if how in ("hang", "memory") and whom in ("dns", "a pair", "all") else NOTHING


for _how in _WORDS:
    for _whom in (*ALL_ROLES, "a pair", "all"):
        add(
            Fault(
                name=f"{_how}: {_whom}",
                way=_way(_how, _whom),  # type: ignore[arg-type]
                lasts_s=_WORDS[_how][2],
                cuts=_cuts(_how, _whom),
                wants_mounts=_whom == "dns",
                router_too=_whom != "dns",
                phases=frozenset(PHASES) if _how in ("SIGKILL", "SIGSTOP") else frozenset(PHASES) - {"drain"},
                weight=2.0 if _how == "SIGKILL" else (0.5 if _how == "hang" else 1.0),
            )
        )


@fault("crash loop of one actor", heals_within_s=30.0, router_too=True, phases=frozenset({"steady", "push"}))
def crash_loop(strike: Strike) -> Iterator[None]:
    role = strike.stage.draw.choice(strike.stage.roles(strike.agent))
    for _ in range(4):
        _strike(strike, signal.SIGKILL, (role,), r"actor {role} ended: SIGKILL")
        old = strike.killed[-1][1]
        wait_for(
            lambda old=old: any(one.pid != old for one in strike.watch.alive(role)),  # type: ignore[misc]
            within_s=15,
            what=f"another {role}",
        )
    yield


@fault(
    "SIGKILL: supervisor", cuts=ALL, variants=SERVING, phases=frozenset(PHASES) - {"drain"}, router_too=True
)
def supervisor(strike: Strike) -> Iterator[None]:
    """The container ends with it, and the kubelet starts it again; nobody is left to log it."""
    assert strike.agent.process is not None
    family = strike.agent.family()
    strike.agent.process.kill()
    strike.agent.process.wait(10)
    strike.ended = True
    wait_for(
        lambda: not [one for one in family if one.is_running() and one.status() != "zombie"],
        within_s=2,
        what="the end of the whole family",
    )
    yield


@fault("SIGSTOP: supervisor", lasts_s=(0.5, 4.0), phases=frozenset(PHASES) - {"drain"})
def frozen(strike: Strike) -> Iterator[None]:
    assert strike.agent.process is not None
    strike.agent.process.send_signal(signal.SIGSTOP)
    yield
    strike.agent.process.send_signal(signal.SIGCONT)
