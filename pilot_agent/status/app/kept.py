"""Connections to the application that are used again, with `ENABLE_PROBE_KEEPALIVE_CONNECTIONS`."""

import select
import socket
import threading
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:  # 2 MB that few probes need
    from pilot_agent.http.http2 import Http2Connection

Place = tuple[str, int, bool]
"""Host, port, whether TLS is spoken."""

_MOST_OF_A_PLACE: Final = 2
_MOST: Final = 32
"""Idle ones. A redirect names its own port, so an application could otherwise have us keep any number."""


class IdleHttp1:
    """A socket that spoke HTTP/1.1."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def is_usable(self) -> bool:
        """Return False where something came while nothing was asked: an end, or what is no answer of ours."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self.sock.close()


Idle: TypeAlias = "IdleHttp1 | Http2Connection"
"""A connection between two requests."""


class Kept:
    """Idle connections, the newest taken first. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[tuple[Place, Idle]] = []  # oldest first
        self._lock = threading.Lock()

    def take(self, place: Place) -> "Idle | None":
        """Return a connection to `place` that its other end has not closed; it is the caller's now."""
        while True:
            with self._lock:
                at = next((i for i in reversed(range(len(self._idle))) if self._idle[i][0] == place), None)
                if at is None:
                    return None
                _, connection = self._idle.pop(at)
            if connection.is_usable():
                return connection
            connection.close()

    def give(self, place: Place, connection: Idle) -> None:
        """Keep a connection that is between two requests; the oldest are closed when there are too many."""
        with self._lock:
            self._idle.append((place, connection))
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
        for _, connection in idle:
            connection.close()
