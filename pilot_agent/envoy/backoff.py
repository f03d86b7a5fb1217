"""How long to wait before the next attempt, drawn by tenacity's wait strategies."""

from collections.abc import Callable
from typing import Final

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base, wait_exponential, wait_random

_CRASH: Final = wait_exponential(multiplier=0.2, max=10.0) + wait_random(0.0, 0.2)
_HOT_RESTART: Final = wait_exponential(multiplier=10.0, max=600.0) + wait_random(0.0, 5.0)


def _drawn(strategy: wait_base) -> Callable[[int], float]:
    def wait_s(attempt: int) -> float:
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempt
        return float(strategy(state))

    return wait_s


crash_wait_s: Final = _drawn(_CRASH)
"""Seconds before Envoy is started again, by the number of crashes in the window (from 1)."""

hot_restart_wait_s: Final = _drawn(_HOT_RESTART)
"""Seconds before a refused or failed hot restart is tried again, by the attempt (from 1)."""
