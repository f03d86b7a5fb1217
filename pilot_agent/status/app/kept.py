"""Connections to the application that are used again, with `ENABLE_PROBE_KEEPALIVE_CONNECTIONS`."""

import select
import socket
import threading
from typing import Final

Place = tuple[str, int, bool]
"""Host, port, whether TLS is spoken."""

_MOST_OF_A_PLACE: Final = 2
_MOST: Final = 32
"""Idle ones. A redirect names its own port, so an application could otherwise have us keep any number."""


class Kept:
    """Idle connections, the newest taken first. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[tuple[Place, socket.socket]] = []  # oldest first
        self._lock = threading.Lock()

    def take(self, place: Place) -> socket.socket | None:
        """Return a connection to `place` that its other end has not closed; it is the caller's now."""
        while True:
            with self._lock:
                at = next((i for i in reversed(range(len(self._idle))) if self._idle[i][0] == place), None)
                if at is None:
                    return None
                _, sock = self._idle.pop(at)
            if not _has_news(sock):
                return sock
            sock.close()

    def give(self, place: Place, sock: socket.socket) -> None:
        """Keep a connection that is between two requests; the oldest are closed when there are too many."""
        with self._lock:
            self._idle.append((place, sock))
            of_place = [each for each in self._idle if each[0] == place]
            too_many = of_place[:-_MOST_OF_A_PLACE] or self._idle[:-_MOST]
            for each in too_many:
                self._idle.remove(each)
        for _, old in too_many:
            old.close()

    def close(self) -> None:
        """Close those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, sock in idle:
            sock.close()


def _has_news(sock: socket.socket) -> bool:
    """Return whether something came while nothing was asked: an end, or what is no answer of ours."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
