"""The supervisor's event loop: descriptors, signals and times, on one thread."""

import heapq
import itertools
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Final

from pilot_agent.log import get_logger

_log = get_logger()

Callback = Callable[[], None]

_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR


class Loop:
    """Calls back when a descriptor is readable, a signal came or a time has come."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._due: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._signals: dict[int, Callback] = {}

    def on_readable(self, descriptor: int, callback: Callback) -> None:
        """Call back whenever `descriptor` has something to read, or its other end is gone."""
        self._readers[descriptor] = callback
        self._poll.register(descriptor, _READABLE)

    def on_writable(self, descriptor: int, callback: Callback | None) -> None:
        """Call back when `descriptor` takes data again; None ends it."""
        if callback is None:
            self._writers.pop(descriptor, None)
        else:
            self._writers[descriptor] = callback
        self._poll.register(descriptor, _READABLE | (select.POLLOUT if callback is not None else 0))

    def forget(self, descriptor: int) -> None:
        """No more calls for `descriptor`; to be said before it is closed."""
        if self._readers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
        self._writers.pop(descriptor, None)

    def after(self, delay_s: float, callback: Callback) -> None:
        """Call back once in `delay_s` seconds."""
        heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._order), callback))

    def on_signals(self, numbers: Iterable[int], callback: Callable[[int], None]) -> None:
        """Call back, from the loop and never from a handler, when one of these signals came."""
        read_end, write_end = socket.socketpair()
        for end in (read_end, write_end):
            end.setblocking(False)
        self._signal_pipe = (read_end, write_end)
        signal.set_wakeup_fd(write_end.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _only_wake)

        def read() -> None:
            for number in os.read(read_end.fileno(), 4096):
                callback(number)

        self.on_readable(read_end.fileno(), read)

    def turn(self) -> None:
        """Wait for the next event and handle what there is."""
        wait_s = max(self._due[0][0] - time.monotonic(), 0.0) if self._due else 60.0
        for descriptor, events in self._poll.poll(wait_s * 1000 + (1 if wait_s else 0)):
            if events & select.POLLOUT and descriptor in self._writers:
                _guarded(self._writers[descriptor])
            if events & ~select.POLLOUT and descriptor in self._readers:
                _guarded(self._readers[descriptor])
        while self._due and self._due[0][0] <= time.monotonic():
            _guarded(heapq.heappop(self._due)[2])


def _guarded(callback: Callback) -> None:
    """Call back; an error costs this one event. The process that everything ends with must not end of it."""
    try:
        callback()
    except Exception:  # noqa: BLE001  # see above
        _log.error(f"supervisor: {traceback.format_exc().rstrip()}")


def _only_wake(_number: int, _frame: object) -> None:
    """Exist, so that Python writes the signal's number to the wake-up descriptor."""
