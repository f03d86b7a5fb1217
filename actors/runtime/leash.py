"""Has the kernel end every Envoy in the instant in which the supervisor is gone, whatever they are doing.

The parent-death signal alone does not: an Envoy with hot restart sets its own, SIGTERM, which waits while an
epoch initializes, so one whose parent was killed too would live on for 10 s; and the exec of a program with
capabilities of its own clears it. So each Envoy holds the reading end of a pipe that the supervisor alone
could write to, and has asked for SIGKILL as the signal that tells of news there: its end.
"""

import contextlib
import fcntl
import os
import signal
from typing import Final

_ends: Final[list[int]] = []  # of this process: reading, writing


def ends() -> tuple[int, int]:
    """Return the descriptors of the pipe, which is made when it is first asked for: before any fork."""
    if not _ends:
        _ends[:] = os.pipe2(os.O_CLOEXEC)
    return _ends[0], _ends[1]


def adopt(inherited: tuple[int, ...]) -> None:
    """Go on with the pipe that this process had before it executed itself anew; none is no harm."""
    _ends[:] = inherited[:2]


def take() -> None:
    """Be killed when the writing end is closed. For the child, before its exec."""
    with contextlib.suppress(OSError):  # no /proc: the parent-death signal is all there is
        path = f"/proc/self/fd/{_ends[0]}"  # opened anew, since a signal's receiver is one of each opening
        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        os.set_inheritable(end, True)
