"""Envoy killed, crashed, stopped, out of memory."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from tests.chaos import resources
from tests.chaos.faults import ALL, PHASES, Strike, fault
from tests.chaos.watch import ENVOY
from tests.support.cgroups import MemoryLimit
from tests.support.waiting import wait_for

_PHASES: Final = frozenset(PHASES) - {"drain"}
_MIB: Final = 1 << 20
_ENDED: Final = r"(Envoy exited with error|ended before it was LIVE|Envoy epoch \d+ ended): signal: "
_KILLED: Final = _ENDED + "killed"


def _newest(strike: Strike) -> int:
    lives = wait_for(lambda: strike.watch.alive(ENVOY), within_s=20, what="Envoy")
    return lives[-1].pid


def _end(strike: Strike, number: int, *pids: int) -> None:
    """Signal them and wait for their end: while a crash writes its stack, the other threads still answer."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    alive = strike.watch.alive
    wait_for(lambda: all(life.pid not in pids for life in alive(ENVOY)), what="the end of Envoy")


@fault(
    "SIGKILL: Envoy", cuts=ALL - {"dns"}, told=_KILLED, phases=_PHASES,
    router_too=True, weight=2.0,
)  # fmt: skip
def killed(strike: Strike) -> Iterator[None]:
    _end(strike, signal.SIGKILL, _newest(strike))
    yield


@fault(
    "SIGSEGV: Envoy", cuts=ALL - {"dns"}, told=_ENDED + "segmentation fault",
    phases=_PHASES, router_too=True,
)  # fmt: skip
def crashed(strike: Strike) -> Iterator[None]:
    _end(strike, signal.SIGSEGV, _newest(strike))
    yield


@fault(
    "SIGKILL: every Envoy",
    cuts=ALL - {"dns"},
    told=_KILLED,
    phases=_PHASES,
)
def all_killed(strike: Strike) -> Iterator[None]:
    _newest(strike)
    _end(strike, signal.SIGKILL, *(life.pid for life in strike.watch.alive(ENVOY)))
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
    "memory: Envoy", lasts_s=(0.0, 0.0), cuts=ALL - {"dns"}, told=_KILLED,
    phases=frozenset({"steady"}), heals_within_s=20.0,
)  # fmt: skip
def out_of_memory(strike: Strike) -> Iterator[None]:
    """A cgroup of its own with a limit far below what it has, and a push of 30 MB for which it needs pages.

    The pages that it had before do not count there.
    """
    pid = _newest(strike)
    limit = MemoryLimit.make(4 * _MIB)
    if limit.directory is None:
        strike.stage.notes.append("no memory cgroup can be made here: Envoy was killed instead")
        os.kill(pid, signal.SIGKILL)
        yield
        return
    for file in limit.files:
        Path(file).write_text(str(pid))
    strike.stage.ballast = tuple(resources.ballast(30))
    strike.stage.push()
    if not _dies(pid):
        strike.stage.notes.append("the cgroup's limit did not kill Envoy: it was killed by hand")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    strike.stage.ballast = ()
    strike.stage.push()
    yield
    with contextlib.suppress(OSError):
        limit.remove()


def _dies(pid: int) -> bool:
    """Return whether the kernel ends it within ten seconds."""
    process = psutil.Process(pid)
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True
