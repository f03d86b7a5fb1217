"""How long until a dead actor is started again."""

from typing import Final

import tenacity

_WAIT: Final = tenacity.wait_exponential(multiplier=0.2, max=10.0) + tenacity.wait_random(0.0, 0.2)
LIVED_WELL_S: Final = 30.0
"""An actor that lived this long is no part of a row of deaths any more."""
_AT_WORK_S: Final = 1.0
"""One that lived so long has worked: a start costs a twentieth of it, and a pause would cost its service."""


def restart_delay_s(failures: int, lived_s: float = 0.0) -> float:
    """Return the pause before the restart after `failures` deaths in a row, 1 for the first.

    0.0 at first and for who lived a second, else exponential with jitter, at most 10 s. There is no last
    one: Envoy may be serving.
    """
    if failures <= 1 or lived_s >= _AT_WORK_S:
        return 0.0
    state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # only counts attempts
    state.attempt_number = failures - 1
    return min(_WAIT(state), 10.0)
