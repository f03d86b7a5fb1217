"""The writing side of a connection: whole frames, in an order that no client can take for a fault.

Many threads write. Whether a call is over is seen under the lock that writes its frames: nothing may
follow trailers or a reset, and only one may open a response.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from pilot_agent.rpc import frames, headers

_MOST_PARTS: Final = 512  # of one write; the kernel's limit is 1,024

Parts = Sequence[bytes | memoryview]


class Response(Protocol):
    """What the writer has to know of a call."""

    stream: int
    is_over: bool
    is_half_closed: bool
    has_begun: bool  # its headers are written; guarded by the writer's lock


class Writer:
    """Thread-safe. A write waits while the client reads nothing, until `shut`."""

    def __init__(self, end: socket.socket, notice: bytes = b"") -> None:
        self._socket = end
        self._lock = threading.Lock()
        self._closing = threading.Lock()  # never held while something waits
        self._notice = notice  # begins the next header block

    def write(self, *parts: bytes | memoryview) -> bool:
        """Write whole frames; return False when the connection is lost."""
        with self._lock:
            return self._write(parts)

    def data(self, call: Response, make: Callable[[], Parts]) -> bool:
        """Write the frames that `make` returns, behind headers if they are the first.

        Return False if the call is over: then nothing was written; or if the connection is lost.
        """
        with self._lock:
            if call.is_over:
                return False
            opening = []
            if not call.has_begun:
                call.has_begun = True
                opening = [self._headers(call.stream, frames.END_HEADERS, headers.RESPONSE)]
            return self._write([*opening, *make()])

    def trailers(self, call: Response, block: bytes) -> None:
        """End a call that is over."""
        with self._lock:
            whole = block if call.has_begun else headers.RESPONSE + block
            self._write(self._last(call.stream, whole, is_open=not call.is_half_closed))

    def answer(self, stream: int, block: bytes, *, is_open: bool) -> None:
        """Answer with headers alone a request that is open, or whole."""
        with self._lock:
            self._write(self._last(stream, block, is_open=is_open))

    def acknowledge(self, *, is_table_smaller: bool) -> None:
        """Acknowledge settings; a client that makes the dynamic table smaller expects to hear of it."""
        with self._lock:
            if is_table_smaller:
                self._notice = headers.NO_TABLE
            self._write([frames.frame(frames.SETTINGS, frames.ACK, 0)])

    def write_soon(self, frame: bytes, *, patience_s: float) -> None:
        """Write a small frame, unless the client reads nothing: then there is no sense in it."""
        if self._lock.acquire(timeout=patience_s):
            try:
                self._socket.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass
            finally:
                self._lock.release()

    def freeze(self, until_s: float) -> tuple[bytes, int] | None:
        """Write nothing any more; return what begins the next header block, and the socket's descriptor.

        None if a frame is still being written at that moment (monotonic). The descriptor is the caller's.
        """
        if not self._lock.acquire(timeout=max(until_s - time.monotonic(), 0.0)):
            return None  # else it is held for ever
        return self._notice, self._socket.detach()

    def shut(self) -> None:
        """Wake up all who read and write; from any thread, as often as one likes."""
        with self._closing, suppress(OSError):  # not while it is closed: its number could be another file's
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, after `shut`."""
        with self._lock, self._closing:
            self._socket.close()

    def _headers(self, stream: int, flags: int, block: bytes) -> bytes:
        notice, self._notice = self._notice, b""
        return frames.frame(frames.HEADERS, flags, stream, notice + block)

    def _last(self, stream: int, block: bytes, *, is_open: bool) -> list[bytes]:
        last = [self._headers(stream, frames.END_HEADERS | frames.END_STREAM, block)]
        if is_open:  # what the client still sends is of no use
            last.append(frames.frame(frames.RST_STREAM, 0, stream, frames.number(frames.NO_ERROR)))
        return last

    def _write(self, parts: Parts) -> bool:
        try:
            for at in range(0, len(parts), _MOST_PARTS):
                self._write_all(parts[at : at + _MOST_PARTS])
        except OSError:
            self.shut()  # a part of a frame may have gone: nothing may follow it
            return False
        return True

    def _write_all(self, parts: Parts) -> None:
        sent = self._socket.sendmsg(parts, (), socket.MSG_NOSIGNAL)
        for part in parts:
            if sent < len(part):
                self._socket.sendall(memoryview(part)[sent:], socket.MSG_NOSIGNAL)
            sent = max(sent - len(part), 0)
