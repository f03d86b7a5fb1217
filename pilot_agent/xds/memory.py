"""Gives memory back to the system after big messages."""

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

BIG_BYTES: Final = 1 << 20
"""From this size on a message is worth the call (measured: four pushes of 50 MB leave 57 MB, else 180)."""

_DELAY_S: Final = 0.5
"""A message is held for a moment by whoever passed it on: what is trimmed at once stays."""

_lock = threading.Lock()
_pending: list[threading.Timer] = []


def trim_soon() -> None:
    """Return freed memory to the system in a moment; calls in between are one."""
    with _lock:
        if not _pending:
            timer = threading.Timer(_DELAY_S, _trim)
            timer.daemon = True
            _pending.append(timer)
            timer.start()


def _trim() -> None:
    with _lock:
        _pending.clear()
    _malloc_trim()(0)


@cache
def _malloc_trim() -> Callable[[int], Any]:  # Any: what the C function returns is of no use
    try:
        function: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except AttributeError:  # musl has none
        return lambda _: 0
    return function
