"""Gives memory back to the system after a big message."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, Final

BIG_BYTES: Final = 1 << 20
"""From this size on a message is worth the call (measured: four pushes of 50 MB leave 57 MB, else 180)."""


def trim() -> None:
    """Return freed memory at the top of the heap to the system; nothing where the C library cannot."""
    _malloc_trim()(0)


@cache
def _malloc_trim() -> Callable[[int], Any]:  # Any: what the C function returns is of no use
    try:
        function: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except AttributeError:  # musl has none
        return lambda _: 0
    return function
