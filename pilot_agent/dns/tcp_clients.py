"""The clients that ask over TCP: two bytes of length before each message, several messages a connection."""

import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from pilot_agent.dns.reactor import READ, WRITE, Alarm, Reactor
from pilot_agent.log import get_logger

IDLE_S: Final = 8.0
CLIENTS_LIMIT: Final = 512
UNDER_WAY_LIMIT: Final = 64
"""Questions of one client that are being answered; the next is read when one is done."""
_MESSAGES_AT_ONCE: Final = 4
_CLIENTS_A_TURN: Final = 16
"""How much is answered before other sockets are looked at: a chunk may hold 2,000 questions for names with
hundreds of addresses, which are seconds of work. Who has more to ask waits in a queue.
"""
_OUT_LIMIT_BYTES: Final = 256 << 10
_CHUNK_BYTES: Final = 64 << 10

_log = get_logger("dns")

Reply = Callable[[bytes], None]
Ask = Callable[[bytes, Reply], bool]
"""Handles a message and calls `Reply` once, now or later; False: the message is worth no reply."""


class TcpClients:
    """Accepts on one listener, and keeps the connections."""

    def __init__(self, reactor: Reactor, listener: socket.socket, ask: Ask) -> None:
        self.reactor, self.ask = reactor, ask
        self._listener = listener
        self._clients: deque[_Client] = deque()  # in the order they came
        self._queue: deque[_Client] = deque()  # who has asked more than may be answered at once
        self._alarm: Alarm | None = None  # for the queue
        reactor.watch(listener, READ, self._accept)

    def close(self) -> None:
        """Let go of the connections; the listener is somebody else's."""
        self.reactor.forget(self._listener)
        for client in list(self._clients):
            client.close()

    @property
    def has_queue(self) -> bool:
        return bool(self._queue)

    def queue(self, client: "_Client") -> None:
        """Have `client` go on with its messages in a later turn."""
        self._queue.append(client)
        if self._alarm is None:
            self._alarm = self.reactor.after(0.0, self._go_on)

    def gone(self, client: "_Client") -> None:
        self._clients.remove(client)
        if client in self._queue:
            self._queue.remove(client)

    def _go_on(self) -> None:
        self._alarm = None
        for _ in range(min(_CLIENTS_A_TURN, len(self._queue))):
            if self._queue:  # an answer may end a client
                self._queue.popleft().go_on()
        if self._queue and self._alarm is None:
            self._alarm = self.reactor.after(0.0, self._go_on)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # it went away, or there are no descriptors left
            if not isinstance(error, BlockingIOError | ConnectionError):
                _log.warn(f"accept: {error.strerror or error}")
                self._drop_oldest()
            return
        sock.setblocking(False)
        if len(self._clients) >= CLIENTS_LIMIT:
            self._drop_oldest()
        self._clients.append(_Client(self, sock))

    def _drop_oldest(self) -> None:
        if self._clients:
            self._clients[0].close()


class _Client:
    def __init__(self, owner: TcpClients, sock: socket.socket) -> None:
        self._owner, self._socket = owner, sock
        self._in, self._out = bytearray(), bytearray()
        self._under_way = 0
        self._ended = False  # the client will not ask any more
        self._is_reading = False  # replies that come now come out of `_take_some_messages`
        self._is_queued = False  # messages that are here wait for their turn
        self._heard_s = time.monotonic()
        self._idle: Alarm = owner.reactor.after(IDLE_S, self._close_if_idle)
        self._watch()

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._idle.cancel()
        self._owner.reactor.forget(self._socket)
        self._socket.close()
        self._owner.gone(self)

    def _watch(self) -> None:
        """Wait for what can be gone on with; nothing left to do ends it."""
        if self._socket.fileno() < 0:
            return
        events = WRITE if self._out else 0
        if self._may_read():
            events |= READ
        if events:
            self._owner.reactor.watch(self._socket, events, self._ready)
        elif self._under_way or self._is_queued:
            self._owner.reactor.forget(self._socket)
        else:
            self.close()

    def _ready(self) -> None:
        if self._socket.fileno() < 0:
            return
        try:
            if self._out:
                self._write()
            if self._may_read():
                self._read()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        self._watch()

    def _may_read(self) -> bool:
        return not self._ended and not self._is_queued and self._under_way < UNDER_WAY_LIMIT

    def _read(self) -> None:
        part = self._socket.recv(_CHUNK_BYTES)
        self._ended = not part
        self._in += part
        self._heard_s = time.monotonic()
        self._take_messages()

    def go_on(self) -> None:
        """Take the next messages; it was this client's turn in the queue."""
        self._is_queued = False
        self._take_some_messages()
        self._watch()

    def _take_messages(self) -> None:
        """Take the messages that are here, behind those who wait already."""
        if self._is_queued:
            return
        if self._owner.has_queue:
            self._queue_up()
        else:
            self._take_some_messages()

    def _take_some_messages(self) -> None:
        self._is_reading = True
        try:
            for _ in range(_MESSAGES_AT_ONCE):
                if not self._has_message():
                    return
                self._under_way += 1
                if not self._owner.ask(self._next_message(), self._reply):
                    self._under_way -= 1
            self._queue_up()
        finally:
            self._is_reading = False

    def _queue_up(self) -> None:
        if self._has_message():
            self._is_queued = True
            self._owner.queue(self)

    def _has_message(self) -> bool:
        """Return whether a whole message is here, and may be taken."""
        if self._socket.fileno() < 0 or self._under_way >= UNDER_WAY_LIMIT or len(self._in) < 2:
            return False
        return len(self._in) >= 2 + int.from_bytes(self._in[:2], "big")

    def _next_message(self) -> bytes:
        end = 2 + int.from_bytes(self._in[:2], "big")
        message = bytes(self._in[2:end])
        del self._in[:end]
        return message

    def _reply(self, data: bytes) -> None:
        self._under_way -= 1
        if self._socket.fileno() < 0:
            return
        if len(self._out) > _OUT_LIMIT_BYTES:
            self.close()  # it asks and does not read
            return
        self._out += len(data).to_bytes(2, "big") + data
        try:
            self._write()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        if not self._is_reading and self._socket.fileno() >= 0:
            self._take_messages()  # that had to wait for an answer
            self._watch()

    def _write(self) -> None:
        del self._out[: self._socket.send(self._out)]

    def _close_if_idle(self) -> None:
        left_s = self._heard_s + IDLE_S - time.monotonic()
        if left_s <= 0 and not self._under_way and not self._is_queued:
            self.close()
        else:
            self._idle = self._owner.reactor.after(max(left_s, 1.0), self._close_if_idle)
