"""A limit on how many may do something at once, with a short queue: nobody beyond it holds a thread."""

import threading


class Turns:
    """`limit` at once, and as many again that wait."""

    def __init__(self, limit: int) -> None:
        self._running = threading.BoundedSemaphore(limit)
        self._places = threading.BoundedSemaphore(2 * limit)

    def acquire(self, timeout_s: float) -> bool:
        """Wait for a turn; False when it did not come in time, or too many wait already."""
        if not self._places.acquire(blocking=False):
            return False
        if self._running.acquire(timeout=timeout_s):
            return True
        self._places.release()
        return False

    def release(self) -> None:
        self._running.release()
        self._places.release()
