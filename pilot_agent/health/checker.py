"""Probes the application at a fixed rate, one probe at a time, in the caller's thread."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from pilot_agent.health.probe import ReadinessProbe
from pilot_agent.health.verdict import Verdict

Probe = Callable[[], str | None]
"""Returns None when all is well, else the error text that istiod is told."""

_CLOCK: Final = time.monotonic


class Checker:
    """Runs the probes in order; the first that fails decides."""

    def __init__(
        self,
        settings: ReadinessProbe,
        probes: Sequence[Probe],
        verdict: Verdict,
        changed: Callable[[Verdict], None],
    ) -> None:
        """`changed` gets each new verdict (transitions only), on the checker's thread."""
        self._settings, self._probes, self._changed = settings, tuple(probes), changed
        self._verdict = verdict
        self._end = threading.Event()

    def run(self, *, initial_delay: bool, began: Callable[[], None] | None = None) -> None:
        """Probe until `close`; the first probe comes right after the initial delay, if one is wanted.

        `began` is called before it: a restarted checker is not to wait again. A probe that outlasts its
        period is followed by one more at once, however many were missed, and then the rhythm goes on as
        before.
        """
        if initial_delay and self._end.wait(self._settings.initial_delay_s):
            return
        if began is not None:
            began()
        due_s = _CLOCK()
        while not self._end.is_set():
            self.probe_once()
            due_s = next_due_s(due_s, _CLOCK(), self._settings.period_s)
            if self._end.wait(max(due_s - _CLOCK(), 0.0)):
                return

    def probe_once(self) -> None:
        failure = next((text for text in (probe() for probe in self._probes) if text is not None), None)
        before = self._verdict.health
        self._verdict = self._verdict.after(
            failure,
            success_threshold=self._settings.success_threshold,
            failure_threshold=self._settings.failure_threshold,
        )
        if self._verdict.health != before and not self._end.is_set():
            self._changed(self._verdict)

    def close(self) -> None:
        """End `run`, its initial delay too; a probe under way ends by its own time limit."""
        self._end.set()


def next_due_s(due_s: float, now_s: float, period_s: float) -> float:
    """Return when the next probe is due: the next beat, or the last one missed (that is: now).

    Source: a Go ticker, which keeps at most one tick for a reader that is late.
    """
    missed = math.floor((now_s - due_s) / period_s)
    return due_s + period_s * max(missed, 1)
