"""Starts a worker before the heavy imports, so that it works beside them on the other core.

Must itself import next to nothing: it runs first of all.
"""

import gc
import os
import signal
import socket

from actors.runtime import process
from actors.runtime.workers import Prestarted, answer, read_frame, resolve, write_frame

_UNASKED_S = 120.0
"""A worker that nobody asks for this long ends."""


def prestart(kind: str, function: str, request: bytes) -> Prestarted:
    """Fork a worker that runs `function` on `request` at once, though nobody has asked yet.

    Asked for just this request, it hands the result over; asked for another one, it does that.
    """
    own, theirs = socket.socketpair()
    parent = os.getpid()
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        own.close()
        _serve(theirs, parent, kind, function, request)
    theirs.close()
    return Prestarted(kind=kind, pid=pid, descriptor=own.detach())


def _serve(end: socket.socket, parent: int, kind: str, function: str, expected: bytes) -> None:
    status = 1
    try:
        process.die_with_parent(parent)
        process.child_signals()
        process.name_process(f"pa-work-{kind}")
        process.keep_secrets()
        signal.setitimer(signal.ITIMER_REAL, _UNASKED_S)
        prepared = answer(resolve(function), expected)
        request = read_frame(end)
        write_frame(end, prepared if request == expected else answer(resolve(function), request))
        status = 0
    except (OSError, EOFError):
        status = 1  # the asker is gone, or never came
    finally:
        os._exit(status)
