"""The listening side: takes connections, finds a call's method, keeps the number of calls in bounds."""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from pilot_agent.log import get_logger
from pilot_agent.rpc import kept as keeping
from pilot_agent.rpc.call import Call, Method, Resumption
from pilot_agent.rpc.connection import Connection
from pilot_agent.rpc.gate import Gate
from pilot_agent.rpc.inlet import StopSign
from pilot_agent.rpc.kept import KeptConnection
from pilot_agent.rpc.status import Code
from pilot_agent.sockets import BoundSocket, SocketError, adopt_unix, heirlooms, listen_unix

_ACCEPT_AGAIN_S: Final = 0.1
_LOOK_MS: Final = 5000
"""How often it is looked whether the socket's file is still there."""

_MOST_CONNECTIONS: Final = 256
_PATIENCE_S: Final = 0.5  # at the end, with all clients that read nothing
_log = get_logger("grpc")


class Server:
    """Serves `methods`, by path, on a Unix socket. Above its limit a call is refused, it never waits."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        name: str,
        calls_limit: int,
        message_limit_bytes: int,
        keepalive_interval_s: float = 0.0,
        keepalive_timeout_s: float = 20.0,
        resumptions: Mapping[str, Resumption] | None = None,
    ) -> None:
        """A client that is silent for the interval (0: for ever) is pinged, and dropped without an answer.

        `resumptions`: by path, for the methods whose calls can be gone on with (see `keep`).
        """
        self.gate, self.stop = Gate(), StopSign()
        self._resumptions = dict(resumptions or {})
        self._methods, self._name = dict(methods), name
        self._calls_limit, self._limit_bytes = calls_limit, message_limit_bytes
        self._interval_s, self._timeout_s = keepalive_interval_s, keepalive_timeout_s
        self._lock = threading.Lock()
        self._calls = 0
        self._connections: set[Connection] = set()
        self._ended = threading.Event()
        self._is_left = False  # to a successor
        self._listener: socket.socket | None = None
        self._bound: BoundSocket | None = None
        self._heirlooms: tuple[int, ...] = ()
        self._made_again: Callable[[tuple[int, ...]], None] | None = None
        self._is_told = False

    def listen(self, path: str, inherited: tuple[int, ...] = ()) -> None:
        """Listen on `path`; clients may connect from now on, and are served after `start`.

        `inherited` is what a predecessor's `heirlooms` gave: its listener is served on, with all who wait.

        Raises:
            SocketError: the socket cannot be bound.
        """
        self._listener, self._bound = adopt_unix(path, inherited) or listen_unix(path)

    def heirlooms(self) -> tuple[int, ...]:
        """Return the descriptors for a successor's `listen`, valid until `quit`."""
        if self._listener is None or self._bound is None:
            return ()
        if not self._heirlooms:
            with suppress(OSError):  # somebody removed the socket's file: nothing to inherit
                self._heirlooms = heirlooms(self._listener, self._bound)
        return self._heirlooms

    def when_made_again(self, tell: Callable[[tuple[int, ...]], None]) -> None:
        """Call `tell` with the new heirlooms when the socket's file was removed and made again.

        To be said before `start`; it is called on the server's own thread.
        """
        self._made_again = tell

    def start(self) -> None:
        """Serve, on threads of the server's own."""
        self._spawn("accept", self._accept)
        if self._interval_s > 0:
            self._spawn("keepalive", self._keep_alive)

    def keep(self, patience_s: float) -> tuple[bytes, list[int]]:
        """Stop serving, and return the connections as they stand, for a successor's `resume`.

        The descriptors are their sockets, the caller's to close. Connections that do not come to a stop
        in time, or with a call that cannot be gone on with, are not among them. This server is of no use
        after it.
        """
        until_s = time.monotonic() + patience_s
        self._is_left = True
        with self._lock:
            connections = list(self._connections)
        found: list[tuple[KeptConnection, int]] = []
        is_quiet = self.gate.close(until_s)
        if is_quiet:
            self.stop.raise_it()
        for connection in connections:
            if not is_quiet or not connection.stopped.wait(max(until_s - time.monotonic(), 0.0)):
                connection.close(patience_s=0.0)
            elif (kept := connection.keep(until_s)) is not None:
                found.append(kept)
            else:
                connection.abandon()
        return keeping.encode(tuple(kept for kept, _ in found)), [descriptor for _, descriptor in found]

    def resume(self, body: bytes, descriptors: Sequence[int]) -> int:
        """Go on with what a predecessor's `keep` returned; return with how many connections.

        Owns the descriptors. To be called after `listen`, before `start`.
        """
        ends = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        try:
            connections = keeping.decode(body)
        except ValueError as error:
            _log.warn(f"{error}: clients connect again")
            connections = ()
        taken = sum(self._resume(end, kept) for end, kept in zip(ends, connections, strict=False))
        for end in ends[len(connections) :]:
            end.close()
        return taken

    def _resume(self, end: socket.socket, kept: KeptConnection) -> bool:
        connection = Connection(end, self, limit_bytes=self._limit_bytes, kept=kept)
        try:
            connection.resume(kept.calls)
        except (ValueError, OSError, RuntimeError) as error:  # also: no more descriptors or threads
            _log.warn(f"connection not gone on with: {error}")
            connection.abandon()
            return False
        self._run(connection)
        return True

    def quit(self) -> None:
        """End all connections, and remove the socket unless it is a successor's by now."""
        self._ended.set()
        if self._bound is not None:
            self._bound.unlink()
        for descriptor in self._heirlooms[1:]:
            os.close(descriptor)
        self._heirlooms = ()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            connections = list(self._connections)
        patience_until_s = time.monotonic() + _PATIENCE_S
        for connection in connections:
            connection.close(patience_s=max(patience_until_s - time.monotonic(), 0.0))

    def begin(self, call: Call) -> None:
        """Find the call's method and let it serve (`connection.Host`)."""
        path = call.headers[":path"]
        method = self._methods.get(path)
        with self._lock:
            self._calls += 1
            has_room = self._calls <= self._calls_limit
        if method is None:
            call.finish(Code.UNIMPLEMENTED, f"unknown method {path}")
        elif not has_room:
            call.finish(Code.RESOURCE_EXHAUSTED, f"more than {self._calls_limit} calls at once")
        else:
            self._serve_call(method, call)

    @staticmethod
    def _serve_call(method: Method, call: Call) -> None:
        try:
            receiver = method(call)
            if not call.is_over:
                call.receiver = receiver
        except (OSError, RuntimeError) as error:  # no more descriptors or threads
            _log.warn(f"call {call.headers[':path']} not served: {error}")
            call.finish(Code.UNAVAILABLE, f"cannot be served now: {error}")

    def resume_call(self, call: Call, state: bytes) -> None:
        """Let the call's method go on (`connection.Host`)."""
        path = call.headers[":path"]
        with self._lock:
            self._calls += 1
        if (resumption := self._resumptions.get(path)) is None:
            raise ValueError(f"calls of {path} cannot be gone on with")
        call.receiver = resumption(call, state)

    def ended(self, _: Call) -> None:
        """Make room for another call (`connection.Host`)."""
        with self._lock:
            self._calls -= 1

    def _accept(self) -> None:
        assert self._listener is not None, "start comes after listen"
        while not self._ended.is_set():
            if not self._somebody_waits():
                self._look_at_file()
                continue
            if self._is_left:
                break
            try:
                end, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    _log.warn(f"connection not accepted: {error.strerror}")
                    self._ended.wait(_ACCEPT_AGAIN_S)
                continue
            if len(self._connections) >= _MOST_CONNECTIONS:
                _log.warn(f"connection refused: there are {_MOST_CONNECTIONS} already")
                end.close()
                continue
            self._take(end)
        self._listener.close()

    def _somebody_waits(self) -> bool:
        assert self._listener is not None
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(_LOOK_MS))

    def _look_at_file(self) -> None:
        """Make the socket again if its file is gone: who is connected stays, but nobody else could come."""
        assert self._bound is not None
        if os.path.lexists(self._bound.path) or self._ended.is_set():
            return
        try:
            listener, bound = listen_unix(self._bound.path)
        except SocketError as error:
            if not self._is_told:
                _log.error(f"socket {self._bound.path} was removed, and cannot be made again: {error}")
            self._is_told = True
            return
        _log.warn(f"socket {bound.path} was removed: it was made again")
        old, self._listener, self._bound, self._is_told = self._listener, listener, bound, False
        for descriptor in self._heirlooms[1:]:
            os.close(descriptor)
        self._heirlooms = ()
        if self._made_again is not None:
            self._made_again(self.heirlooms())
        if old is not None:
            old.close()
        if self._ended.is_set():  # `quit` may not have seen this one
            bound.unlink()

    def _take(self, end: socket.socket) -> None:
        self._run(Connection(end, self, limit_bytes=self._limit_bytes))

    def _run(self, connection: Connection) -> None:
        with self._lock:
            self._connections.add(connection)
        try:
            self._spawn("connection", partial(self._serve, connection))
        except RuntimeError as error:
            _log.warn(f"connection refused: {error}")
            with self._lock:
                self._connections.discard(connection)
            connection.abandon()
            self._ended.wait(_ACCEPT_AGAIN_S)
        if self._ended.is_set():  # `quit` may not have seen this one
            connection.close()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _keep_alive(self) -> None:
        pinged_s: dict[Connection, float] = {}
        while not self._ended.wait(min(self._interval_s, self._timeout_s) / 4):
            now_s = time.monotonic()
            with self._lock:
                connections = set(self._connections)
            pinged_s = {
                each: when for each, when in pinged_s.items() if each in connections and each.heard_s < when
            }
            for connection in () if self._is_left else connections:
                if connection in pinged_s:
                    if now_s - pinged_s[connection] > self._timeout_s:
                        connection.close()
                elif now_s - connection.heard_s >= self._interval_s:
                    pinged_s[connection] = now_s
                    connection.ping()

    def _spawn(self, what: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=f"{self._name}-{what}", daemon=True).start()
