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
_MESSAGES_A_TURN: Final = 16
"""Of one client; then the others have their turn. A chunk may hold 2,000 questions for names with hundreds
of addresses, which are seconds of work.
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
        self._clients: deque[_Client] = deque()  # the longest silent first
        reactor.watch(listener, READ, self._accept)

    def close(self) -> None:
        """Let go of the connections; the listener is somebody else's."""
        self.reactor.forget(self._listener)
        for client in list(self._clients):
            client.close()

    def gone(self, client: "_Client") -> None:
        self._clients.remove(client)

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
        self._is_reading = False  # replies that come now come out of `_take_messages`
        self._rest: Alarm | None = None  # for messages that are here and wait for the next turn
        self._heard_s = time.monotonic()
        self._idle: Alarm = owner.reactor.after(IDLE_S, self._close_if_idle)
        self._watch()

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._idle.cancel()
        if self._rest is not None:
            self._rest.cancel()
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
        elif self._under_way or self._rest is not None:
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
        return not self._ended and self._rest is None and self._under_way < UNDER_WAY_LIMIT

    def _read(self) -> None:
        part = self._socket.recv(_CHUNK_BYTES)
        self._ended = not part
        self._in += part
        self._heard_s = time.monotonic()
        self._take_messages()

    def _take_messages(self) -> None:
        self._is_reading = True
        try:
            self._take_whole_messages()
        finally:
            self._is_reading = False

    def _take_whole_messages(self) -> None:
        for _ in range(_MESSAGES_A_TURN):
            message = self._next_message()
            if message is None:
                return
            self._under_way += 1
            if not self._owner.ask(message, self._reply):
                self._under_way -= 1
        self._rest = self._owner.reactor.after(0.0, self._take_rest)

    def _take_rest(self) -> None:
        self._rest = None
        self._take_messages()
        self._watch()

    def _next_message(self) -> bytes | None:
        """Return the next message that is here as a whole; None also while none is to be taken."""
        if self._socket.fileno() < 0 or self._under_way >= UNDER_WAY_LIMIT or len(self._in) < 2:
            return None
        size = int.from_bytes(self._in[:2], "big")
        if len(self._in) < size + 2:
            return None
        message = bytes(self._in[2 : size + 2])
        del self._in[: size + 2]
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
            if self._rest is None:
                self._take_messages()  # that had to wait for an answer
            self._watch()

    def _write(self) -> None:
        del self._out[: self._socket.send(self._out)]

    def _close_if_idle(self) -> None:
        left_s = self._heard_s + IDLE_S - time.monotonic()
        if left_s <= 0 and not self._under_way and self._rest is None:
            self.close()
        else:
            self._idle = self._owner.reactor.after(max(left_s, 1.0), self._close_if_idle)
