"""A question of the status port's, put to another actor and waited for on a connection's thread."""

import queue
import threading
from collections.abc import Callable
from typing import Final

_WITHIN_S: Final = 10.0


class AskedPage:
    """Thread-safe; every question has a number, so that no answer reaches another's connection."""

    def __init__(self, ask: Callable[[int], None], *, first_number: int) -> None:
        """`ask` puts the question under a number, which comes back with the answer."""
        self._ask, self._number = ask, first_number
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[bytes]] = {}

    def get(self) -> bytes:
        """Return the page; empty when there is none, or nobody answers in time."""
        answer: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = answer
        self._ask(number)
        try:
            return answer.get(timeout=_WITHIN_S)
        except queue.Empty:
            return b""
        finally:
            with self._lock:
                del self._waiting[number]

    def shown(self, number: int, body: bytes) -> None:
        """Take an answer."""
        with self._lock:
            waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.put(body)
