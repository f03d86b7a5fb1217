"""Runs a test command that may neither hang nor leave a process behind: `python -m tests.within 15m pytest`.

pytest's own limit ends one test. This one ends the whole run, with the stacks of all its threads, and it
adopts what the command's processes leave behind: an orphan is named, ended, and makes the run fail.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Final

import psutil

_PR_SET_CHILD_SUBREAPER: Final = 36
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
_DUMP_S: Final = 5.0  # for the stacks to be written
_GRACE_S: Final = 10.0  # what is just ending is no orphan
_TIMED_OUT: Final = 124  # as timeout(1)


def main(arguments: list[str]) -> int:
    """Return the command's exit code, 124 where it took too long, 1 where it left processes behind."""
    limit, *command = arguments
    limit_s = float(limit[:-1]) * _UNITS_S[limit[-1]]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        print(f"tests.within: not done within {limit}; the stacks follow", flush=True)
        _dump(process.pid)
        code = _TIMED_OUT
        process.kill()
    except KeyboardInterrupt:
        code = process.wait()
    left = _left(0.0 if code == _TIMED_OUT else _GRACE_S)
    for orphan in left:
        print(f"tests.within: left behind: {orphan}", flush=True)
    _end()
    return code or (1 if left else 0)


def _dump(pid: int) -> None:
    pytest = psutil.Process(pid)
    for each in (pytest, *pytest.children()):
        try:
            if "python" in each.exe():
                each.send_signal(signal.SIGABRT)  # pytest has switched on faulthandler
        except psutil.Error:
            continue
    time.sleep(_DUMP_S)


def _children() -> list[psutil.Process]:
    _reap()
    return psutil.Process().children(recursive=True)


def _left(grace_s: float) -> list[str]:
    deadline_s = time.monotonic() + grace_s
    while (children := _children()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
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
        time.sleep(0.05)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
