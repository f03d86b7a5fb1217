"""Runs the agent with two illnesses that can be ordered from outside, in any of its actors, by a signal.

    python inside.py [PYTHON] PILOT-AGENT WORD...

EAT makes a process eat memory until it is killed; HANG makes it hold the interpreter's lock for ten minutes,
so that no thread of it does anything. Neither can be done to a process from outside, and the program itself
has nothing of the kind. Everything else is the program as it is.
"""

import ctypes
import os
import runpy
import signal
import sys
import time
from types import FrameType

EAT, HANG = signal.SIGRTMIN + 5, signal.SIGRTMIN + 6
_eaten: list[bytes] = []


def _eat(number: int, frame: FrameType | None) -> None:
    while True:
        _eaten.append(b"\1" * (16 << 20))
        time.sleep(0.002)


def _hang(number: int, frame: FrameType | None) -> None:
    ctypes.PyDLL(None).sleep(600)  # PyDLL: the lock is held


def _arm() -> None:
    signal.signal(EAT, _eat)
    signal.signal(HANG, _hang)


def main() -> None:
    words = sys.argv[1:]
    if words[0] == sys.executable:
        del words[0]
    sys.argv = words
    sys.path.pop(0)  # this folder
    os.register_at_fork(after_in_child=_arm)
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
