"""A question of the status port's, put to another actor and waited for on a connection's thread."""

import threading
from collections.abc import Callable
from typing import Final

_WITHIN_S: Final = 10.0


class _Asking:
    """One question under way."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.answered = threading.Event()
        self.body = b""


class AskedPage:
    """Thread-safe; every question has a number, so that no late answer is taken for another's.

    Who asks while a question is under way gets its answer too: the other actor may need a process for each,
    and anybody in the pod may ask.
    """

    def __init__(self, ask: Callable[[int], None], *, first_number: int) -> None:
        """`ask` puts the question under a number, which comes back with the answer."""
        self._ask, self._number = ask, first_number
        self._lock = threading.Lock()
        self._asking: _Asking | None = None

    def get(self) -> bytes:
        """Return the page; empty when there is none, or nobody answers in time."""
        with self._lock:
            asking, is_new = self._asking, self._asking is None
            if asking is None:
                self._number += 1
                asking = self._asking = _Asking(self._number)
        if is_new:
            self._ask(asking.number)
        asking.answered.wait(_WITHIN_S)
        self._end(asking)
        return asking.body

    def shown(self, number: int, body: bytes) -> None:
        """Take an answer."""
        with self._lock:
            asking = self._asking
        if asking is not None and asking.number == number:
            asking.body = body
            self._end(asking)
            asking.answered.set()

    def _end(self, asking: _Asking) -> None:
        with self._lock:
            if self._asking is asking:
                self._asking = None
