"""Wake-ups for an actor: one thread, one heap, delivery to the mailbox."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class TimerEntry:
    """One wake-up; `cancel` may come at any time and from any thread."""

    __slots__ = ("cancelled", "message")

    def __init__(self, message: object) -> None:
        self.message = message
        self.cancelled = False

    def cancel(self) -> None:
        """Forget it; harmless after it was delivered."""
        self.cancelled = True


class Timers:
    """Delivers messages when they are due (monotonic clock). The thread starts with the first of them."""

    def __init__(self, deliver: Callable[[object], None]) -> None:
        self._deliver = deliver
        self._heap: list[tuple[float, int, TimerEntry]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def after(self, delay_s: float, message: object) -> TimerEntry:
        """Deliver `message` in `delay_s` seconds."""
        entry = TimerEntry(message)
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + max(delay_s, 0.0), next(self._order), entry))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
                self._thread.start()
            self._changed.notify()
        return entry

    def _run(self) -> None:
        while True:
            entry = self._next()
            if not entry.cancelled:
                self._deliver(entry.message)

    def _next(self) -> TimerEntry:
        with self._changed:
            while True:
                wait_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(wait_s)
