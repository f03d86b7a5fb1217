"""Forwards queries to the pod's name servers: one after the other in random order, or all at once.

Each query has a socket, and so a source port, of its own: nobody who did not see the query can answer it.

Source: the reference's DNS server, upstream queries: the client's message as it came, over the same
protocol; no second round, no change from UDP to TCP.
"""

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from pilot_agent.dns import wire
from pilot_agent.dns.reactor import READ, WRITE, Alarm, Reactor
from pilot_agent.dns.responder import TCP_MAX_BYTES, Query, failure
from pilot_agent.dns.wire import AnotherReplyError, MalformedError
from pilot_agent.log import get_logger

PORT: Final = 53
BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.1, 1.0, 5.0)
_SAID_EVERY_S: Final = 1.0
_DURATION: Final = "dns_upstream_request_duration_seconds"

_log = get_logger("dns")

Shuffled = Callable[[Sequence[str]], list[str]]
Done = Callable[[bytes], None]


class Counters(Protocol):
    """Where what happens is counted."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None: ...


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How queries are forwarded."""

    name_servers: tuple[str, ...]
    parallel: bool = False
    timeout_s: float = 5.0
    sockets_limit: int = 2048  # of all queries under way; above it the answer is SERVFAIL
    port: int = PORT


class Forwarder:
    """Hands queries to the name servers and their replies back; on the reactor's thread."""

    def __init__(
        self,
        reactor: Reactor,
        settings: UpstreamSettings,
        counters: Counters,
        *,
        shuffled: Shuffled = lambda servers: random.sample(servers, len(servers)),
    ) -> None:
        self.reactor, self.settings = reactor, settings
        self.open_sockets = 0
        self.under_way: set[_Exchange] = set()
        self._counters, self._shuffled = counters, shuffled
        self._said_s, self._unsaid = -_SAID_EVERY_S, 0

    def forward(self, query: Query, done: Done, *, tcp: bool) -> None:
        """Call `done` once, maybe at once, with the reply or SERVFAIL."""
        self._counters.count("dns_upstream_requests_total")
        exchange = _Exchange(self, query, self._shuffled(self.settings.name_servers), done, tcp=tcp)
        self.under_way.add(exchange)
        exchange.begin()

    def close(self) -> None:
        """Let go of what is under way; nobody is told."""
        for exchange in list(self.under_way):
            exchange.give_up()

    def finished(self, query: Query, reply: bytes | None, began_s: float, done: Done) -> None:
        """Count an exchange that is over; None: it failed."""
        took_s = time.monotonic() - began_s
        count = self._counters.count
        for bound in BUCKETS_S:
            count(f"{_DURATION}_bucket", float(took_s <= bound), le=f"{bound:g}")
        count(f"{_DURATION}_bucket", le="+Inf")
        count(f"{_DURATION}_sum", took_s)
        count(f"{_DURATION}_count")
        if reply is None:
            count("dns_upstream_failures_total")
            reply = failure(query)
        done(reply)

    def say(self, problem: str) -> None:
        """Log what failed, once a second at most: a flood of queries must not become one of lines."""
        now_s = time.monotonic()
        if now_s - self._said_s < _SAID_EVERY_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since)" if self._unsaid else ""
        self._said_s, self._unsaid = now_s, 0
        _log.info(f"upstream failure: {problem}{more}")


class _Exchange:
    """One query on its way through the name servers."""

    def __init__(self, owner: Forwarder, query: Query, servers: list[str], done: Done, *, tcp: bool) -> None:
        self._owner, self._query, self._done = owner, query, done
        self._attempt_kind: type[_Attempt] = _TcpAttempt if tcp else _UdpAttempt
        self._left = servers
        self._open: list[_Attempt] = []
        self._began_s = time.monotonic()
        self._over = False

    def begin(self) -> None:
        at_once = len(self._left) if self._owner.settings.parallel else 1
        while self._left and len(self._open) < at_once:  # one that fails at once is not among them
            self._try_next()
        self._end_if_nobody_is_left()

    def replied(self, attempt: "_Attempt", reply: bytes) -> None:
        attempt.close()
        self._open.remove(attempt)
        self._end(reply)

    def failed(self, attempt: "_Attempt", problem: str) -> None:
        attempt.close()
        self._open.remove(attempt)
        self._owner.say(f"{attempt.server}: {problem}")
        while self._left and not self._open:
            self._try_next()
        self._end_if_nobody_is_left()

    def _try_next(self) -> None:
        server = self._left.pop(0)
        if self._owner.open_sockets >= self._owner.settings.sockets_limit:
            self._owner.say(f"{self._owner.open_sockets} queries are under way: refused")
            self._left.clear()
            return
        try:
            self._open.append(self._attempt_kind(self._owner, self, self._query, server))
        except OSError as error:
            self._owner.say(f"{server}: {error.strerror or error}")

    def _end_if_nobody_is_left(self) -> None:
        if not self._open and not self._left:
            self._end(None)

    def give_up(self) -> None:
        self._over = True
        self._owner.under_way.discard(self)
        self._left.clear()
        for attempt in self._open:
            attempt.close()
        self._open.clear()

    def _end(self, reply: bytes | None) -> None:
        if self._over:
            return
        self.give_up()
        self._owner.finished(self._query, reply, self._began_s, self._done)


class _Attempt:
    """One query at one name server: a socket, and a time for what it waits for."""

    kind = socket.SOCK_DGRAM

    def __init__(self, owner: Forwarder, exchange: _Exchange, query: Query, server: str) -> None:
        """Begin.

        Raises:
            OSError: the server cannot be asked; nothing is left open.
        """
        self.server, self._query = server, query
        self._owner, self._exchange = owner, exchange
        self._alarm: Alarm | None = None
        self._socket = self._connected()
        owner.open_sockets += 1
        try:
            self._begin()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the socket; may be called twice."""
        if self._socket.fileno() < 0:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._owner.reactor.forget(self._socket)
        self._socket.close()
        self._owner.open_sockets -= 1

    def _connected(self) -> socket.socket:
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self.server, self._owner.settings.port, type=self.kind, flags=socket.AI_NUMERICHOST
            )[0]
        except ValueError as error:  # what resolv.conf names cannot even be written as a host name
            raise OSError(f"no address: {error}") from error
        sock = socket.socket(family, self.kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(address)
        except BlockingIOError:
            pass  # TCP: it is under way
        except OSError:
            sock.close()
            raise
        return sock

    def _begin(self) -> None:
        """Ask, or wait until that is possible."""
        raise NotImplementedError

    def _wait_for(self, events: int, what: str, then: Callable[[], None]) -> None:
        """Have `then` called when the socket is ready; the attempt fails if that takes too long."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._owner.reactor.watch(self._socket, events, lambda: self._guarded(then))
        timeout_s = self._owner.settings.timeout_s
        self._alarm = self._owner.reactor.after(
            timeout_s, lambda: self._exchange.failed(self, f"{what}: timed out after {timeout_s:g} s")
        )

    def _guarded(self, then: Callable[[], None]) -> None:
        if self._socket.fileno() < 0:
            return  # closed earlier in the same turn
        try:
            then()
        except BlockingIOError:
            return
        except (OSError, MalformedError) as error:
            self._exchange.failed(self, getattr(error, "strerror", None) or str(error))

    def _take(self, reply: bytes) -> None:
        """Take a whole reply.

        Raises:
            MalformedError: it is none.
        """
        wire.check_reply(reply, self._query.header.id, self._query.question_bytes)
        self._exchange.replied(self, reply)


class _UdpAttempt(_Attempt):
    """A reply to another query, or with another id, is not taken for a failure: the right one may come."""

    def _begin(self) -> None:
        self._socket.send(self._query.data)
        self._wait_for(READ, "read", self._read)

    def _read(self) -> None:
        reply = self._socket.recv(self._query.limit_bytes)
        try:
            self._take(reply)
        except AnotherReplyError as error:
            self._owner.say(f"{self.server}: {error}: ignored")


class _TcpAttempt(_Attempt):
    kind = socket.SOCK_STREAM

    def _begin(self) -> None:
        self._out = len(self._query.data).to_bytes(2, "big") + self._query.data
        self._in = bytearray()
        self._wait_for(WRITE, "dial", self._dialled)

    def _dialled(self) -> None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"dial: {os.strerror(error).lower()}")
        self._wait_for(WRITE, "write", self._write)
        self._write()

    def _write(self) -> None:
        self._out = self._out[self._socket.send(self._out) :]
        if not self._out:
            self._wait_for(READ, "read", self._read)

    def _read(self) -> None:
        part = self._socket.recv(TCP_MAX_BYTES + 2 - len(self._in))
        if not part:
            raise MalformedError(f"connection closed after {len(self._in)} bytes")
        self._in += part
        size = int.from_bytes(self._in[:2], "big")
        if len(self._in) >= size + 2 > 2:
            self._take(bytes(self._in[2 : size + 2]))
        elif len(self._in) >= 2 and not size:
            raise MalformedError("empty reply")
