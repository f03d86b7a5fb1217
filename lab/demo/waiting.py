"""Waits for something to become true, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

from lab.demo.show import StepFailedError

T = TypeVar("T")


def until(look: Callable[[], T | None], *, what: str, within_s: float, every_s: float = 0.01) -> T:
    """Return the first true value of `look`, which may raise OSError while its subject is not there yet.

    Raises:
        StepFailedError: it did not come within `within_s`; the text has the last error.
    """
    deadline_s = time.monotonic() + within_s
    last = ""
    while True:
        try:
            found = look()
            if found:
                return found
        except OSError as error:
            last = f"; last error: {error}"
        if time.monotonic() >= deadline_s:
            raise StepFailedError(f"{what}: not within {within_s:g} s{last}")
        time.sleep(every_s)
