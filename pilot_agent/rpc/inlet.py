"""The reading side of a connection: bytes in order, and a stop between any two of them.

A stop loses nothing: what was read and not used up to then is `unread`, and whoever reads the socket next
begins with it.
"""

import os
import select
import socket
from typing import Final

_CHUNK_BYTES: Final = 64 * 1024


class StoppedError(Exception):
    """Reading was stopped: the socket is somebody else's to read now."""


class StopSign:
    """Stops all inlets that look at it; raised once and for ever."""

    def __init__(self) -> None:
        """Take a descriptor.

        Raises:
            OSError: there is none to be had.
        """
        self._event = -1  # for `__del__`, if there are no more descriptors
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        if self._event >= 0:
            os.close(self._event)

    def fileno(self) -> int:
        """Return what becomes readable when the sign is raised."""
        return self._event

    def raise_it(self) -> None:
        """Stop them."""
        os.eventfd_write(self._event, 1)


class Inlet:
    """Reads one socket, on one thread."""

    def __init__(self, end: socket.socket, stop: StopSign, unread: bytes = b"") -> None:
        """`unread` is what a predecessor read and did not use."""
        self._socket, self._buffer = end, unread
        self._stop = stop  # kept: its descriptor is polled
        self._at = self._mark = 0
        self._patience_ms: int | None = None
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._poll.register(stop, select.POLLIN)

    def be_patient(self, seconds: float | None) -> None:
        """Let a wait for bytes last so long, None: for ever."""
        self._patience_ms = None if seconds is None else int(seconds * 1000)

    def mark(self) -> None:
        """Note that everything that was read is used."""
        self._mark = self._at

    @property
    def unread(self) -> bytes:
        """Return what was received since the mark."""
        return self._buffer[self._mark :]

    def exactly(self, count: int) -> bytes:
        """Return the next bytes, waiting for them.

        Raises:
            EOFError: the other end is closed, or says nothing for too long.
            StoppedError: reading was stopped.
            OSError: the connection is lost.
        """
        while len(self._buffer) - self._at < count:
            self._receive()
        start, self._at = self._at, self._at + count
        return self._buffer[start : self._at]

    def _receive(self) -> None:
        if self._mark:
            self._buffer = self._buffer[self._mark :]  # nothing is held while there is nothing to read
            self._at, self._mark = self._at - self._mark, 0
        ready = self._poll.poll(self._patience_ms)
        if not ready:
            raise EOFError("silent from the start")
        if len(ready) > 1 or ready[0][0] == self._stop.fileno():
            raise StoppedError
        more = self._socket.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
        if not more:
            raise EOFError("closed by the client")
        self._buffer += more
