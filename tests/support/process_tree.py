"""An actor tree that a test started as a process: one of its actors killed, and its orderly end."""

import contextlib
import os
import signal
import subprocess

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
        psutil.wait_procs(family, timeout=5)


def _pid(supervisor: int, role: str) -> int | None:
    for child in psutil.Process(supervisor).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # a zombie has no command line
            if any(role in part for part in child.cmdline()[:1]):
                return child.pid
    return None
