"""What can be told of a stream: per type what Envoy asks for, what came, and what Envoy said to it.

For the status page. It is fed with the same envelopes as everything else and keeps no payload.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from pilot_agent.xds.envelope import DeltaRequest, DeltaResponse, SotwRequest, SotwResponse

NAMES_SHOWN: Final = 100
_NAMES = 3

Source = Literal["istiod", "last known good"]


class TypeShown(msgspec.Struct, frozen=True, kw_only=True):
    """One type of one stream. Ages are seconds before now, -1 for never."""

    type_url: str
    state: Literal["waiting", "live", "stale"]  # no response yet, istiod's, from the last known good
    wildcard: bool
    names: tuple[str, ...]  # asked for, at most NAMES_SHOWN
    names_count: int
    version: str  # of the last response; delta: its system_version_info
    nonce: str  # of the last response
    responses: int  # on this connection
    bytes_last: int
    bytes_total: int
    received_s_ago: float
    answer: Literal["", "ack", "nack"]  # to the last response that Envoy judged
    answered_nonce: str
    answered_s_ago: float
    error: str  # of the last rejection, kept after later acceptances


class StreamShown(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of Envoy's."""

    id: str
    variant: str
    generation: int  # of the agent's Envoys; -1: it did not say
    leg: int  # connections to istiod that this stream has had
    source: Literal["", "istiod", "last known good"]  # who answers; "": nobody does yet
    leg_age_s: float
    types: tuple[TypeShown, ...]


class _Type:
    def __init__(self) -> None:
        self.wildcard = False
        self.names: dict[bytes, None] = {}
        self.source: Source | None = None  # of the last response
        self.version = self.nonce = self.answered_nonce = self.error = ""
        self.responses = self.bytes_last = self.bytes_total = 0
        self.received_at_s = self.answered_at_s = -1.0
        self.answer: Literal["", "ack", "nack"] = ""


class States:
    """One stream's. Thread-safe."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._types: dict[str, _Type] = {}
        self._untold: set[str] = set()  # types whose first request of this leg is still to come
        self._leg, self._leg_began_at_s = 0, now_s()
        self._leg_source: Source | None = None

    def begin_leg(self, leg: int) -> None:
        with self._lock:
            self._leg, self._leg_began_at_s, self._leg_source = leg, self._now_s(), None
            self._untold = set(self._types)

    def request(self, seen: SotwRequest | DeltaRequest) -> None:
        with self._lock:
            known = self._types.get(seen.type_url)
            is_first = known is None or seen.type_url in self._untold
            if known is None:
                known = self._types[seen.type_url] = _Type()
            self._untold.discard(seen.type_url)
            _subscribe(known, seen, is_first=is_first)
            if seen.response_nonce and seen.response_nonce == known.nonce:
                self._judge(known, seen)

    def response(self, seen: SotwResponse | DeltaResponse, source: Source) -> None:
        with self._lock:
            self._leg_source = source
            known = self._types.setdefault(seen.type_url, _Type())
            known.source, known.nonce = source, seen.nonce
            known.version = seen.version_info if isinstance(seen, SotwResponse) else seen.spans.text(1)
            known.responses += 1
            known.bytes_last = len(seen.spans.data)
            known.bytes_total += known.bytes_last
            known.received_at_s = self._now_s()

    def shown(self, *, name: str, variant: str, generation: int) -> StreamShown:
        """Return everything, as of now."""
        with self._lock:
            now_s = self._now_s()
            return StreamShown(
                id=name,
                variant=variant,
                generation=generation,
                leg=self._leg,
                source=self._leg_source or "",
                leg_age_s=round(now_s - self._leg_began_at_s, 3),
                types=tuple(_shown(type_url, known, now_s) for type_url, known in self._types.items()),
            )

    def _judge(self, known: _Type, seen: SotwRequest | DeltaRequest) -> None:
        if known.answered_nonce == seen.response_nonce and not seen.is_nack:
            return  # a change of subscription that names the response again
        known.answered_nonce, known.answered_at_s = seen.response_nonce, self._now_s()
        known.answer = "nack" if seen.is_nack else "ack"
        if seen.is_nack:
            known.error = seen.error_text()


def _subscribe(known: _Type, seen: SotwRequest | DeltaRequest, *, is_first: bool) -> None:
    if isinstance(seen, SotwRequest):
        known.names = dict.fromkeys(seen.spans.all(_NAMES))
        known.wildcard = not known.names if is_first else known.wildcard and not known.names
        return
    if is_first:  # a leg begins with everything that is asked for
        known.names.clear()
        known.wildcard = not seen.subscribe
    for name in seen.unsubscribe:
        known.names.pop(name, None)
    known.names.update(dict.fromkeys(seen.subscribe))
    known.wildcard = (known.wildcard or b"*" in seen.subscribe) and b"*" not in seen.unsubscribe
    known.names.pop(b"*", None)


def _shown(type_url: str, known: _Type, now_s: float) -> TypeShown:
    def ago(at_s: float) -> float:
        return round(now_s - at_s, 3) if at_s >= 0 else -1.0

    names = [name for name, _ in zip(known.names, range(NAMES_SHOWN), strict=False)]
    return TypeShown(
        type_url=type_url,
        state="waiting" if known.source is None else "live" if known.source == "istiod" else "stale",
        wildcard=known.wildcard,
        names=tuple(name.decode(errors="replace") for name in names),
        names_count=len(known.names),
        version=known.version,
        nonce=known.nonce,
        responses=known.responses,
        bytes_last=known.bytes_last,
        bytes_total=known.bytes_total,
        received_s_ago=ago(known.received_at_s),
        answer=known.answer,
        answered_nonce=known.answered_nonce,
        answered_s_ago=ago(known.answered_at_s),
        error=known.error,
    )
