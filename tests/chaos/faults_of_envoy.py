"""Envoy killed, crashed, stopped, out of memory."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Final

import psutil

from tests.chaos.faults import ALL, PHASES, Strike, fault
from tests.chaos.watch import ENVOY
from tests.support.cgroups import MemoryLimit
from tests.support.waiting import wait_for

_PHASES: Final = frozenset(PHASES) - {"drain"}
_MIB: Final = 1 << 20


def _newest(strike: Strike) -> int:
    lives = wait_for(lambda: strike.watch.alive(ENVOY), within_s=20, what="Envoy")
    return lives[-1].pid


@fault(
    "SIGKILL: Envoy", cuts=ALL - {"dns"}, told=r"Envoy exited with error: signal: killed", phases=_PHASES,
    router_too=True, weight=2.0,
)  # fmt: skip
def killed(strike: Strike) -> Iterator[None]:
    os.kill(_newest(strike), signal.SIGKILL)
    yield


@fault(
    "SIGSEGV: Envoy", cuts=ALL - {"dns"}, told=r"Envoy exited with error: signal: segmentation fault",
    phases=_PHASES, router_too=True,
)  # fmt: skip
def crashed(strike: Strike) -> Iterator[None]:
    os.kill(_newest(strike), signal.SIGSEGV)
    yield


@fault(
    "SIGKILL: every Envoy",
    cuts=ALL - {"dns"},
    told=r"Envoy exited with error: signal: killed",
    phases=_PHASES,
)
def all_killed(strike: Strike) -> Iterator[None]:
    _newest(strike)
    for life in strike.watch.alive(ENVOY):
        with contextlib.suppress(ProcessLookupError):
            os.kill(life.pid, signal.SIGKILL)
    yield


@fault(
    "SIGSTOP: Envoy", lasts_s=(2.5, 2.5), told=r"was stopped and serves nothing", router_too=True,
    phases=frozenset({"steady", "push", "rotation"}),
)  # fmt: skip
def stopped(strike: Strike) -> Iterator[None]:
    """The agent lets it go on by itself; requests wait for that long."""
    os.kill(_newest(strike), signal.SIGSTOP)
    yield


@fault(
    "memory: Envoy", lasts_s=(0.0, 0.0), cuts=ALL - {"dns"}, told=r"Envoy exited with error: signal: killed",
    phases=frozenset({"steady"}), heals_within_s=20.0,
)  # fmt: skip
def out_of_memory(strike: Strike) -> Iterator[None]:
    """A cgroup of its own with a limit far below what it has: the kernel kills it at the next pages."""
    pid = _newest(strike)
    limit = MemoryLimit.make(4 * _MIB)
    if limit.directory is None:
        strike.stage.notes.append("no memory cgroup can be made here: Envoy was killed instead")
        os.kill(pid, signal.SIGKILL)
        yield
        return
    move = limit.directory / "memory.move_charge_at_immigrate"
    with contextlib.suppress(OSError):  # version 2 has none and moves nothing: new pages count alone
        move.write_text("3")
    with contextlib.suppress(OSError):  # refused at once where the move itself is above the limit
        for file in limit.files:
            _write(file, str(pid))
    dead = _dies_of_pages(strike, pid)
    if not dead:
        strike.stage.notes.append("the cgroup's limit did not kill Envoy: it was killed by hand")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    yield
    with contextlib.suppress(OSError):
        limit.remove()


def _dies_of_pages(strike: Strike, pid: int) -> bool:
    """Have Envoy make pages until the kernel ends it."""
    for _ in range(60):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        with contextlib.suppress(OSError):
            strike.agent.admin("/config_dump")
    return False


def _write(file: str, text: str) -> None:
    with open(file, "w") as opened:  # noqa: PTH123
        opened.write(text)
