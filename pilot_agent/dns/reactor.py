"""One thread's loop over sockets and times, for thousands of queries under way at once."""

import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
_LONGEST_S: Final = 1.0
_KEPT_CANCELLED: Final = 256


class Alarm:
    """A time at which something is to be done, unless it is cancelled."""

    __slots__ = ("_reactor", "callback")

    def __init__(self, reactor: "Reactor", callback: Callable[[], None]) -> None:
        self._reactor = reactor
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._reactor.cancelled += 1


class Reactor:
    """Calls back when a socket is ready or a time has come. `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self.cancelled = 0  # alarms that may be among those kept
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._selector.register(self._wake, READ, self._woken)

    def watch(self, sock: socket.socket, events: int, callback: Callable[[], None]) -> None:
        """Call back when `sock` is ready; instead of what was said of it before."""
        if sock in self._selector.get_map():
            self._selector.modify(sock, events, callback)
        else:
            self._selector.register(sock, events, callback)

    def forget(self, sock: socket.socket) -> None:
        """To be called before the socket is closed."""
        if sock in self._selector.get_map():
            self._selector.unregister(sock)

    def after(self, delay_s: float, callback: Callable[[], None]) -> Alarm:
        alarm = Alarm(self, callback)
        heapq.heappush(self._alarms, (time.monotonic() + delay_s, next(self._numbers), alarm))
        return alarm

    def turn(self) -> None:
        """Wait for whatever comes first, a second at most, and do what is due."""
        for key, _ in self._selector.select(self._wait_s()):
            key.data()
        now_s = time.monotonic()
        while self._alarms and (self._alarms[0][2].callback is None or self._alarms[0][0] <= now_s):
            callback = heapq.heappop(self._alarms)[2].callback
            if callback is not None:
                callback()
            else:
                self.cancelled -= 1
        if self.cancelled > _KEPT_CANCELLED and self.cancelled * 2 > len(self._alarms):
            self._tidy()

    def wake(self) -> None:
        """Have `turn` return; harmless after `close`."""
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        self._selector.close()
        with self._lock:
            os.close(self._wake)
            self._wake = -1

    def _woken(self) -> None:
        os.eventfd_read(self._wake)

    def _wait_s(self) -> float:
        if not self._alarms:
            return _LONGEST_S
        return min(max(self._alarms[0][0] - time.monotonic(), 0.0), _LONGEST_S)

    def _tidy(self) -> None:
        """Drop cancelled alarms: most queries are answered long before their time is over."""
        self._alarms = [entry for entry in self._alarms if entry[2].callback is not None]
        heapq.heapify(self._alarms)
        self.cancelled = 0
