"""One ADS stream of Envoy's: keeps its subscriptions, passes bytes both ways, outlives the upstream ones.

The upstream half of the path gets *legs* of this stream, one after another. Each leg is begun by
`UpstreamPort.open`, has sockets of its own, and begins with the requests that restore what Envoy has
subscribed to. So a lost istiod, or a lost upstream process, costs Envoy nothing.
"""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final, Protocol

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.unreadable import UNREADABLE
from pilot_agent.wire import WireError
from pilot_agent.xds import memory
from pilot_agent.xds.delta import DeltaSubscriptions
from pilot_agent.xds.pipes import DownstreamEnd, make_leg
from pilot_agent.xds.record import KeptRecord
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.sotw import SotwSubscriptions

_SLOW_SEND_S: Final = 10.0
_log = get_logger("xdsproxy")


class UpstreamPort(Protocol):
    """The way to the upstream half."""

    def open(self, leg: int, descriptors: tuple[int, int]) -> None:
        """Begin a leg there, whose far end the descriptors are; never blocks, and owns them."""


class End(msgspec.Struct, frozen=True):
    """The status with which Envoy's stream ends; code 0 is OK."""

    code: int
    details: str


class KeptStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as another process takes it up."""

    variant: Variant
    generation: int
    leg: int
    record: KeptRecord


def read_kept(state: bytes) -> KeptStream:
    """Return what `EnvoyStream.keep` has kept.

    Raises:
        ValueError: it was another version, which keeps something else.
    """
    try:
        return msgspec.msgpack.decode(state, type=KeptStream)
    except UNREADABLE as error:
        raise ValueError(f"ADS stream of the version before: {error}") from error


class EnvoyStream:
    """Thread-safe: requests come from one thread, responses go on another, legs begin on a third."""

    def __init__(self, *, variant: Variant, generation: int, upstream: UpstreamPort, name: str) -> None:
        self.variant, self.generation, self.name = variant, generation, name
        self.ended: End | None = None
        self._record = SotwSubscriptions() if variant == "sotw" else DeltaSubscriptions()
        self._upstream = upstream
        self._lock = threading.Lock()
        self._legs: queue.SimpleQueue[DownstreamEnd | None] = queue.SimpleQueue()
        self._leg: DownstreamEnd | None = None
        self._leg_number = 0

    def keep(self) -> bytes | None:
        """Return from what another process can go on, None when the stream ends.

        To be called when Envoy asks no more, and no response is under way to it.
        """
        with self._lock:
            if self.ended is not None:
                return None
            return msgspec.msgpack.encode(
                KeptStream(
                    variant=self.variant,
                    generation=self.generation,
                    leg=self._leg_number,
                    record=self._record.keep(),
                )
            )

    def resume(self, kept: KeptStream) -> None:
        """Go on where another process was; a leg is to be begun next.

        Raises:
            ValueError: it was another version, which keeps something else.
        """
        self._record.resume(kept.record)
        self._leg_number = kept.leg

    def begin_leg(self, *, unless_after: int | None = None) -> None:
        """Have the upstream half open a stream to istiod and restore the subscriptions on it.

        `unless_after` is the leg that it saw ending: nothing is done if a later one was begun since.

        Raises:
            OSError: there are no descriptors to be had; the leg before is the last one still.
        """
        with self._lock:
            if self.ended is not None or (unless_after is not None and unless_after < self._leg_number):
                return
            near, far = make_leg()
            if self._leg is not None:
                self._leg.end()
            self._leg_number += 1
            self._leg = near
            self._upstream.open(self._leg_number, far)
            for body in self._record.next_leg():
                self._leg.send(body)
            self._legs.put(self._leg)

    def request(self, body: bytes) -> None:
        """Pass one request of Envoy's on.

        Raises:
            WireError: it is malformed.
        """
        with self._lock:
            forwarded = self._record.request(body)
            if forwarded is not None and self._leg is not None:
                self._leg.send(forwarded)

    def end(self, code: int, details: str) -> None:
        """End Envoy's stream with this status; the first end counts."""
        with self._lock:
            if self.ended is None:
                self.ended = End(code, details)
                self._forget_legs()
                self._legs.put(None)

    def _forget_legs(self) -> None:
        """Let go of the sockets, which are closed when the thread that reads them does so too."""
        if self._leg is not None:
            self._leg.end()
            self._leg = None
        with suppress(queue.Empty):
            while True:
                self._legs.get(block=False)

    def responses(self, turn: AbstractContextManager[None] | None = None) -> Iterator[bytes]:
        """Yield what Envoy shall get, leg after leg; return when the stream ends.

        What is noted of a response, and its sending, are within `turn`.
        The next is asked for when Envoy's transport has taken the one before, which `taken` reports.
        """
        while (leg := self._legs.get()) is not None:
            while (body := leg.receive()) is not None:
                with turn or nullcontext():
                    if self._note(leg, body):
                        size_bytes, began_s = len(body), time.monotonic()
                        yield body
                        del body  # else it would be held until the next one comes
                        self._report(size_bytes, time.monotonic() - began_s)
                leg.taken()
            del leg  # else its sockets would be held while the thread waits for the next

    def _note(self, leg: DownstreamEnd, body: bytes) -> bool:
        """Return whether Envoy gets the response: one of an older leg is repeated by the new one."""
        with self._lock:
            if leg is not self._leg or self.ended is not None:
                _log.debug("response of an older upstream stream dropped", id=self.name)
                return False
            try:
                self._record.response(body)
            except WireError as error:
                _log.error(f"malformed response dropped: {error}", id=self.name)
                return False
            return True

    def _report(self, size_bytes: int, took_s: float) -> None:
        if took_s > _SLOW_SEND_S:
            _log.warn(f"sending took {took_s:.1f}s: Envoy reads slowly", id=self.name, bytes=size_bytes)
        if size_bytes >= memory.BIG_BYTES:
            memory.trim_soon()
