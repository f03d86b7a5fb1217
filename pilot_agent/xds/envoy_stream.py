"""One ADS stream of Envoy's: keeps its subscriptions, passes bytes both ways, outlives the upstream ones.

The upstream half of the path gets *legs* of this stream, one after another. Each leg is begun by
`UpstreamPort.open`; requests that follow belong to it, and it begins with those that restore what
Envoy has subscribed to. So a lost istiod, or a lost upstream process, costs Envoy nothing.
"""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.wire import WireError
from pilot_agent.xds import memory
from pilot_agent.xds.delta import DeltaSubscriptions
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.sotw import SotwSubscriptions

_SLOW_SEND_S: Final = 10.0
_log = get_logger("xdsproxy")


class UpstreamPort(Protocol):
    """Where a stream's events go; called in order, and never blocking."""

    def open(self, leg: int) -> None: ...
    def request(self, body: bytes) -> None: ...
    def taken(self, leg: int) -> None: ...


class End(msgspec.Struct, frozen=True):
    """The status with which Envoy's stream ends; code 0 is OK."""

    code: int
    details: str


class Outgoing:
    """One response on its way into gRPC, which takes the bytes out while it keeps the holder."""

    __slots__ = ("_body", "leg")

    def __init__(self, leg: int, body: bytes) -> None:
        self.leg, self._body = leg, body

    def take(self) -> bytes:
        body, self._body = self._body, b""
        return body

    @property
    def size_bytes(self) -> int:
        return len(self._body)


class EnvoyStream:
    """Thread-safe: requests come from the stream's reader, responses from the channel's."""

    def __init__(self, *, variant: Variant, generation: int, upstream: UpstreamPort, name: str) -> None:
        self.variant, self.generation, self.name = variant, generation, name
        self.ended: End | None = None
        self._record = SotwSubscriptions() if variant == "sotw" else DeltaSubscriptions()
        self._upstream = upstream
        self._lock = threading.Lock()
        self._leg = 0
        self._outbox: queue.SimpleQueue[Outgoing | End] = queue.SimpleQueue()

    def begin_leg(self, *, unless_after: int | None = None) -> None:
        """Have the upstream half open a stream to istiod and restore the subscriptions on it.

        `unless_after` is the leg that it saw ending: nothing is done if a later one was begun since.
        """
        with self._lock:
            if unless_after is not None and unless_after < self._leg:
                return
            self._leg += 1
            self._upstream.open(self._leg)
            for body in self._record.next_leg():
                self._upstream.request(body)

    def request(self, body: bytes) -> None:
        """Pass one request of Envoy's on.

        Raises:
            WireError: it is malformed.
        """
        with self._lock:
            forwarded = self._record.request(body)
            if forwarded is not None:
                self._upstream.request(forwarded)

    def response(self, leg: int, body: bytes) -> None:
        """Queue one response for Envoy; one of an older leg is dropped, since the new leg repeats it."""
        with self._lock:
            if leg != self._leg or self.ended is not None:
                _log.debug("response of an older upstream stream dropped", id=self.name, leg=leg)
                return
            try:
                self._record.response(body)
            except WireError as error:
                _log.error(f"malformed response dropped: {error}", id=self.name)
                self._upstream.taken(leg)
                return
            self._outbox.put(Outgoing(leg, body))

    def end(self, code: int, details: str) -> None:
        """End Envoy's stream with this status, after what is queued before it; the first end counts."""
        with self._lock:
            if self.ended is None:
                self.ended = End(code, details)
                self._outbox.put(self.ended)

    def responses(self) -> Iterator[Outgoing]:
        """Yield what gRPC shall send; return when the stream ends.

        gRPC asks for the next only after it has taken the one before, which is what `taken` reports.
        """
        while isinstance(item := self._outbox.get(), Outgoing):
            leg, size_bytes, began_s = item.leg, item.size_bytes, time.monotonic()
            yield item
            self._upstream.taken(leg)
            took_s = time.monotonic() - began_s
            if took_s > _SLOW_SEND_S:
                _log.warn(f"sending took {took_s:.1f}s: Envoy reads slowly", id=self.name, bytes=size_bytes)
            if size_bytes >= memory.BIG_BYTES:
                memory.trim_soon()
