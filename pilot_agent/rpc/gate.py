"""Lets threads do a piece of work that must not be left half done, until the gate is closed."""

import threading
import time


class Gate:
    """A context for such a piece of work. Who comes when it is closed waits for ever: the process ends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_closed = False

    def __enter__(self) -> None:
        with self._changed:
            while self._is_closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if self._is_closed:
                self._changed.notify_all()

    def close(self, until_s: float) -> bool:
        """Let nobody in any more; return whether all were out before this moment (monotonic)."""
        with self._changed:
            self._is_closed = True
            return self._changed.wait_for(lambda: not self._inside, max(until_s - time.monotonic(), 0.0))
