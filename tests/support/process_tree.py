"""Processes that a test started: an actor of a tree killed, a tree's orderly end, whether all have ended."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable

import psutil

from tests.support.waiting import wait_for


def kill_actor(supervisor: int, role: str) -> None:
    """SIGKILL the actor's process and wait until another one has its place."""
    old = wait_for(lambda: _pid(supervisor, role), what=role)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: _pid(supervisor, role) not in (None, old), what=f"a new {role}")


def quit_tree(supervisor: subprocess.Popen[bytes]) -> None:
    """End the tree by SIGTERM and wait for all of it.

    Raises:
        TimeoutExpired: it did not end in time, and was killed.
    """
    family = psutil.Process(supervisor.pid).children(recursive=True)
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(15)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
        raise
    finally:
        wait_ended(family, within_s=5)


def has_ended(process: psutil.Process) -> bool:
    """Return whether it runs no more; process 1 may take seconds to reap what nobody else did."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_ended(processes: Iterable[psutil.Process], *, within_s: float = 10.0) -> list[psutil.Process]:
    """Return those that still run after `within_s`; returns as soon as none does."""
    left = list(processes)
    deadline_s = time.monotonic() + within_s
    while (left := [one for one in left if not has_ended(one)]) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return left


def _pid(supervisor: int, role: str) -> int | None:
    for child in psutil.Process(supervisor).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # a zombie has no command line
            if any(role in part for part in child.cmdline()[:1]):
                return child.pid
    return None
