"""The sockets of one leg: whole requests and responses between the two halves of the xDS path.

A leg belongs to one process at each end and ends with either of them, so plain stream sockets do:
nobody goes on with half a message. Each is read by the very thread that hands the bytes to the network. A
reading thread and a queue in between cost 0.4 ms of a round trip of 200 bytes, four wake-ups of
sleeping threads.
"""

import os
import select
import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

T = TypeVar("T")

_LENGTH: Final = struct.Struct("!Q")
_WAITALL: Final = int(socket.MSG_WAITALL | socket.MSG_NOSIGNAL)
_DONTWAIT: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_NOSIGNAL: Final = int(socket.MSG_NOSIGNAL)
_TAKEN: Final = b"\0"


def make_leg() -> tuple["DownstreamEnd", tuple[int, int]]:
    """Return the downstream end of a new leg, and what `UpstreamEnd` is made of in the other process."""
    requests = socket.socketpair()
    try:
        responses = socket.socketpair()
    except OSError:  # no more descriptors: the first two must not be lost as well
        for each in requests:
            each.close()
        raise
    ends = tuple(each.detach() for each in (*requests, *responses))
    return DownstreamEnd(ends[0], ends[2]), (ends[1], ends[3])


class _Pipe(socket.socket):
    """A socket that is closed when nobody holds it any more.

    Closed earlier, under a thread that waits on it, its number could already be another file's.
    """

    def __init__(self, descriptor: int) -> None:
        """Own the descriptor."""
        super().__init__(fileno=descriptor)

    def __del__(self) -> None:
        self.close()

    def next_message(self) -> bytes | None:
        """Return the next message, waiting for it; None when the pipe is over."""
        length = self._exactly(_LENGTH.size)
        return None if length is None else self._exactly(_LENGTH.unpack(length)[0])

    def _exactly(self, count: int) -> bytes | None:
        """Return that many bytes; they are received right into the object that is passed on."""
        try:
            data = self.recv(count, _WAITALL)
            while len(data) < count and (more := self.recv(count - len(data), _WAITALL)):
                data += more
        except OSError:  # the other end was closed before it had read all
            return None
        return data if len(data) == count else None

    def end(self) -> None:
        """Let both ends see that it is over; may be called from any thread, and twice."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class _Outbox(_Pipe):
    """Sends without ever blocking: what the kernel does not take at once waits here, without a bound.

    A thread sends it then, and ends when nothing is left.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._lock = threading.Lock()
        self._waiting: deque[bytes | memoryview] = deque()
        self._is_over = False

    def put(self, body: bytes) -> None:
        with self._lock:
            if self._is_over:
                return
            parts: list[bytes | memoryview] = [_LENGTH.pack(len(body)), body]
            if self._waiting:
                self._waiting.extend(parts)
            elif left := self._left_of(parts):
                self._waiting.extend(left)
                self._start_draining()

    def _start_draining(self) -> None:
        try:
            threading.Thread(target=self._drain, name="requests", daemon=True).start()
        except RuntimeError:  # no more threads: half a message is in the pipe, so the leg cannot go on
            self._drop()
            self.end()

    def _drop(self) -> None:
        self._is_over = True
        self._waiting.clear()

    def _left_of(self, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """Send what the kernel takes at once; return the rest."""
        try:
            sent = self.sendmsg(parts, (), _DONTWAIT)
        except BlockingIOError:
            return parts
        except OSError:  # the pipe is over, as the reader of the responses sees too
            self._drop()
            return []
        left: list[bytes | memoryview] = []
        for part in parts:
            if sent < len(part):
                left.append(memoryview(part)[sent:])
            sent = max(sent - len(part), 0)
        return left

    def _drain(self) -> None:
        part: bytes | memoryview | None = self._waiting[0]
        while part is not None:
            try:
                self.sendall(part, _NOSIGNAL)
            except OSError:  # what waits is for a leg that is over
                with self._lock:
                    self._drop()
                return
            with self._lock:
                self._waiting.popleft()
                part = self._waiting[0] if self._waiting else None


class DownstreamEnd:
    """Envoy's side of a leg: requests are sent and never block, responses are received and paid for."""

    def __init__(self, requests: int, responses: int) -> None:
        self._requests, self._responses = _Outbox(requests), _Pipe(responses)
        # Who waits in `recv` on a Unix socket is woken, for nothing, when the other end reads what was sent
        # on it before: that is `taken`, and in a round trip. `poll` wakes for what is to be read alone.
        self._readable = select.poll()
        self._readable.register(self._responses, select.POLLIN)

    def send(self, request: bytes) -> None:
        self._requests.put(request)

    def receive(self) -> bytes | None:
        """Return the next response, waiting for it; None when the leg is over."""
        self._readable.poll()
        return self._responses.next_message()

    def taken(self) -> None:
        """Let the next response come: Envoy's transport took the one before."""
        with suppress(OSError):  # the leg is over
            self._responses.send(_TAKEN, _DONTWAIT)

    def end(self) -> None:
        """End the leg; from any thread, as often as one likes."""
        self._requests.end()
        self._responses.end()


class Beside(Protocol):
    """What a waiting thread goes on with."""

    def read_beside(self, descriptor: int) -> None:
        """Return when there is something to read at the descriptor."""


class UpstreamEnd(Generic[T]):
    """istiod's side of a leg. A response waits until Envoy's transport took the one before.

    One thread calls `receive`, one at a time `send` and `wait_until_taken`; the rest is for all.
    """

    def __init__(self, requests: int, responses: int) -> None:
        """Own the two descriptors that `make_leg` returned."""
        self._requests = _Pipe(requests)
        self._responses = _Pipe(responses)
        self._insertions: deque[T] = deque()
        self._inserted = -1  # for `__del__`, if there are no more descriptors
        self._inserted = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        self._poll = select.poll()
        for each in (self._requests.fileno(), self._inserted):
            self._poll.register(each, select.POLLIN)
        self._is_in_flight = False

    def __del__(self) -> None:
        if self._inserted >= 0:
            os.close(self._inserted)

    def insert(self, item: T) -> None:
        """Have `receive` return this between two requests of Envoy's."""
        self._insertions.append(item)
        os.eventfd_write(self._inserted, 1)

    def receive(self) -> bytes | T | None:
        """Return the next request or insertion, waiting for it; None when the leg is over."""
        ready = self._poll.poll()
        if len(ready) > 1 or ready[0][0] == self._inserted:
            os.eventfd_read(self._inserted)
            return self._insertions.popleft()
        return self._requests.next_message()

    def send(self, response: bytes, beside: "Beside | None" = None) -> bool:
        """Send a response as soon as the one before is taken; return whether the leg still lasts."""
        return self.wait_until_taken(beside) and self._send(response)

    def wait_until_taken(self, beside: "Beside | None" = None) -> bool:
        """Wait until no response is in flight, doing what is beside; return whether the leg still lasts."""
        try:
            lasts = not self._is_in_flight or self._is_taken(beside)
        except OSError:
            lasts = False
        self._is_in_flight = False
        return lasts

    def _is_taken(self, beside: "Beside | None") -> bool:
        if beside is not None:
            try:
                return bool(self._responses.recv(1, _DONTWAIT))
            except BlockingIOError:
                beside.read_beside(self._responses.fileno())
        return bool(self._responses.recv(1))

    def _send(self, response: bytes) -> bool:
        header = _LENGTH.pack(len(response))
        self._is_in_flight = True
        end = self._responses
        try:
            sent = end.sendmsg((header, response), (), _NOSIGNAL) - len(header)
            if sent < len(response):
                end.sendall(memoryview(response)[sent:], _NOSIGNAL)
        except OSError:
            return False
        return True

    def end(self) -> None:
        """End the leg; from any thread, as often as one likes."""
        self._requests.end()
        self._responses.end()
