"""The status port's question for the name table, put to DnsActor and waited for on a connection's thread."""

import queue
import threading
from collections.abc import Callable
from typing import Final

from actors.messages.dns import NameTableAsked, NameTableShown

_WITHIN_S: Final = 10.0


class NameTablePage:
    """Thread-safe; every question has a number, so that no answer reaches another's connection."""

    def __init__(self, ask: Callable[[NameTableAsked], None], *, first_number: int) -> None:
        self._ask, self._number = ask, first_number
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[bytes]] = {}

    def get(self) -> bytes:
        """Return the page; empty when there is none, or DnsActor does not answer in time."""
        answer: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = answer
        self._ask(NameTableAsked(number=number))
        try:
            return answer.get(timeout=_WITHIN_S)
        except queue.Empty:
            return b""
        finally:
            with self._lock:
                del self._waiting[number]

    def shown(self, message: NameTableShown) -> None:
        with self._lock:
            waiting = self._waiting.get(message.number)
        if waiting is not None:
            waiting.put(message.body)
