"""Accepts connections and gives each a thread, up to a fixed number."""

import _thread
import errno
import select
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from pilot_agent.log import get_logger
from pilot_agent.status.connection import BUSY, OUR_TURN, Connection, Limits
from pilot_agent.status.messages import Answer, Request

_ACCEPT_PAUSE_S: Final = 0.1
_LOOKS: Final = 100  # a number and no time: without a core to run on, this thread gets fewer turns, too
_LOOK_EVERY_S: Final = 0.001
_QUICK_S: Final = 0.02  # who is served for longer waits for somebody else
_SWITCH_S: Final = 0.0005
"""How long a busy thread keeps the interpreter; Python's own 5 ms, 64 times over, are 320 ms."""

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = get_logger()


class StatusServer:
    """Serves a listening socket that others may hold too.

    A thread for each connection, so that no client and no slow page makes another wait; at most
    `max_connections`, and who comes then takes the place of the one that was idle longest.
    """

    def __init__(
        self,
        listener: socket.socket,
        handler: Callable[[Request], Answer],
        *,
        limits: Limits | None = None,
        max_connections: int = 64,
    ) -> None:
        """`listener` stays in blocking mode: its descriptor is shared, and so is O_NONBLOCK."""
        self._listener, self._handler = listener, handler
        self._limits, self._max_connections = limits or Limits(), max_connections
        # Weak: a thread that finds no memory to begin lets go of its connection, and that is closed.
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def serve(self) -> None:
        """Accept until the listener is shut down, by whomever, or `close` is called."""
        sys.setswitchinterval(_SWITCH_S)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while not self._ended.is_set():
            poll.poll()
            try:
                sock, address = self._listener.accept()
            except ConnectionAbortedError:
                continue
            except MemoryError:
                self._ended.wait(_ACCEPT_PAUSE_S)
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    return  # shut down: the agent is ending
                _log.warn(f"status server: accept: {error.strerror}: trying again")
                self._ended.wait(_ACCEPT_PAUSE_S)
                continue
            try:
                self._begin(sock, str(address[0]))
            except (MemoryError, RuntimeError) as error:  # this client is lost, the next may not be
                sock.close()
                _log.warn(f"status server: {error}: a client was turned away")
                self._ended.wait(_ACCEPT_PAUSE_S)
            del sock  # it is its connection's alone

    def close(self) -> None:
        """End all connections. The listener is its owner's."""
        self._ended.set()
        with self._lock:
            connections = tuple(self._connections)
        for connection in connections:
            connection.end()

    def connections(self) -> int:
        """Return how many are open."""
        with self._lock:
            return len(self._connections)

    def _begin(self, sock: socket.socket, peer: str) -> None:
        _set_options(sock)
        self._catch_up()
        connection = Connection(sock, peer, self._handler, self._limits)
        with self._lock:
            leaving = self._leaving()
            if leaving is not None:
                self._connections.discard(leaving)
            self._connections.add(connection)
        if leaving is not None:
            leaving.end()
        try:
            # Not threading.Thread, whose start waits for a thread that may have found no memory to begin.
            _thread.start_new_thread(self._run, (connection,))
        except BaseException:
            with self._lock:
                self._connections.discard(connection)
            raise

    def _catch_up(self) -> None:
        """Where everybody waits for us alone, let the threads come to them: a place may get free."""
        for _ in range(_LOOKS):
            with self._lock:
                leaving = self._leaving()
            if leaving is None or not _waits_for_us(leaving):
                return
            self._ended.wait(_LOOK_EVERY_S)

    def _leaving(self) -> Connection | None:
        """Return who has to go for a new one, None while there is a place. Locked."""
        crowded = len(self._connections) >= self._max_connections
        return min(self._connections, key=Connection.rank) if crowded else None

    def _run(self, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            with self._lock:
                self._connections.discard(connection)


def _waits_for_us(connection: Connection) -> bool:
    kind, since_s = connection.rank()
    return kind == OUR_TURN or (kind == BUSY and time.monotonic() - since_s < _QUICK_S)


def _set_options(sock: socket.socket) -> None:
    """Send small answers at once; find out about clients that vanished (Go's server asks every 15 s)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
