"""Waiting for events with a deadline, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], *, within_s: float = 10.0, what: str = "the event") -> T:
    """Return the first true value that `look` returns; fails loudly after `within_s`.

    `look` may raise OSError while its subject is not there yet.
    """
    deadline_s = time.monotonic() + within_s
    last: object = None
    while True:
        try:
            found = look()
        except OSError as error:
            last, found = error, None
        if found:
            return found
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"{what} did not come within {within_s:g} s; last seen: {last or found!r}")
        time.sleep(0.01)
