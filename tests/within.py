"""Runs a test command that may neither hang nor leave a process behind: `python -m tests.within 15m pytest`.

pytest's own limit ends one test. This one ends the whole run, with the stacks of all its threads, and it
adopts what the command's processes leave behind: an orphan is named, ended, and makes the run fail.
"""

import ctypes
import os
import signal
import sys
import time
from typing import Final

import psutil

_PR_SET_CHILD_SUBREAPER: Final = 36
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
_LOOK_EVERY_S: Final = 0.05
_DUMP_S: Final = 5.0  # for the stacks to be written
_GRACE_S: Final = 10.0  # what is just ending is no orphan
_TIMED_OUT: Final = 124  # as timeout(1)


def main(arguments: list[str]) -> int:
    """Return the command's exit code, 124 where it took too long, 1 where it left processes behind."""
    limit, *command = arguments
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it, too, and ends in its own way
    environment = os.environ | {"PYTHONFAULTHANDLER": "1"}  # also where pytest has let go of it
    pid = os.posix_spawnp(command[0], command, environment, setsigdef=[signal.SIGINT])
    code = _wait(pid, float(limit[:-1]) * _UNITS_S[limit[-1]])
    if code is None:
        print(f"tests.within: not done within {limit}; the stacks follow", flush=True)
        _dump(pid)
        _end()
        return _TIMED_OUT
    left = _left()
    for orphan in left:
        print(f"tests.within: left behind: {orphan}", flush=True)
    _end()
    return code or (1 if left else 0)


def _wait(pid: int, limit_s: float) -> int | None:
    """Return the exit code of `pid`, None after `limit_s`. Orphans are reaped meanwhile, as by any init."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if not ended:
            time.sleep(_LOOK_EVERY_S)
    return None


def _dump(pid: int) -> None:
    pytest = psutil.Process(pid)
    for each in (pytest, *pytest.children()):
        try:
            if "python" in each.exe():
                each.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
        except psutil.Error:
            continue
    time.sleep(_DUMP_S)


def _left() -> list[str]:
    deadline_s = time.monotonic() + _GRACE_S
    while (children := _children()) and time.monotonic() < deadline_s:
        time.sleep(_LOOK_EVERY_S)
    found = []
    for child in children:
        try:
            found.append(f"{child.pid} {' '.join(child.cmdline()) or child.name()}"[:300])
        except psutil.Error:
            continue
    return found


def _end() -> None:
    while children := _children():  # until none is left: a supervisor restarts what is killed
        for child in children:
            try:
                child.kill()
            except psutil.Error:
                continue
        time.sleep(_LOOK_EVERY_S)


def _children() -> list[psutil.Process]:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    return psutil.Process().children(recursive=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
