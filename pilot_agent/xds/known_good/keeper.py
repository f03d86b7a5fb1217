"""Decides what of a stream is worth keeping: the responses that Envoy accepted, and nothing else.

Pure: it is told what passes, and returns what is to be written. A response waits here, as the bytes
that passed anyway, until Envoy has judged it; rejected ones, and those of a leg that ended, are let go.
"""

import threading
from typing import Final

import msgspec

from pilot_agent.wire import bytes_field, message
from pilot_agent.xds.envelope import (
    DeltaRequest,
    DeltaResponse,
    SotwRequest,
    SotwResponse,
    read_delta_response,
)
from pilot_agent.xds.known_good.content import NAMED_TYPES, VERSION_KEY
from pilot_agent.xds.type_urls import PREFIX

_SECRET: Final = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
_NAMES, _REMOVED = 3, 6


class Accepted(msgspec.Struct, frozen=True):
    """Envoy accepted this response. With `afresh` it is all that Envoy holds of the type."""

    type_url: str
    body: bytes
    afresh: bool


class Retain(msgspec.Struct, frozen=True):
    """Envoy says what it holds of a type; whatever else was kept is outdated.

    `claims` maps names to versions: one that is not in it goes, and so does one of another version; an
    empty version keeps what there is. In the state-of-the-world variant the key `VERSION_KEY` holds the
    version of the whole type instead.
    """

    type_url: str
    claims: dict[bytes, bytes]


class Forget(msgspec.Struct, frozen=True):
    """What Envoy holds of the type cannot be kept: keep nothing of it."""

    type_url: str
    reason: str


Order = Accepted | Retain | Forget


class _Type:
    """What is known of one type on the present leg."""

    def __init__(self, *, is_fresh: bool) -> None:
        self.is_fresh = is_fresh  # Envoy claimed nothing, and nothing was accepted since
        self.is_whole = True  # False: a part could not be kept, so the rest is worth nothing
        self.wildcard = False
        self.waiting: dict[str, bytes | None] = {}  # nonce → response; None: not to be kept
        self.names: frozenset[bytes] = frozenset()  # of the last request; of the variant that repeats them
        self.dropped: set[bytes] = set()  # no longer asked for; a response under way may still have them


class Keeper:
    """One stream's. Thread-safe: requests and responses come from different threads."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes` bounds a response, and all that wait together."""
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._types: dict[str, _Type] = {}
        self._waiting_bytes = 0

    def begin_leg(self) -> None:
        """Let go of what was not judged: the next leg says it again."""
        with self._lock:
            self._types.clear()
            self._waiting_bytes = 0

    def response(self, seen: SotwResponse | DeltaResponse) -> None:
        """Note a response that goes to Envoy."""
        with self._lock:
            known = self._types.get(seen.type_url)
            if known is None or not seen.nonce or seen.type_url == _SECRET:
                return
            body = seen.spans.data
            keep = self._waiting_bytes + len(body) <= self._limit_bytes
            known.waiting[seen.nonce] = body if keep else None
            self._waiting_bytes += len(body) if keep else 0

    def request(self, seen: SotwRequest | DeltaRequest) -> list[Order]:
        """Note a request of Envoy's; return what is to be written."""
        with self._lock:
            known = self._types.get(seen.type_url)
            if known is None:
                return self._first(seen)
            orders = self._judged(known, seen)
            dropped = _dropped_by(
                known, seen
            )  # also of what an earlier leg kept: the next answer may never come
            return orders + ([_removal(seen, dropped)] if dropped and known.is_whole else [])

    def _first(self, seen: SotwRequest | DeltaRequest) -> list[Order]:
        if isinstance(seen, SotwRequest):
            claims = {VERSION_KEY: seen.version_info.encode()} if seen.version_info else {}
        else:
            claims = seen.initial_resource_versions()
        known = self._types[seen.type_url] = _Type(is_fresh=not claims)
        known.wildcard = isinstance(seen, DeltaRequest) and not seen.subscribe
        _dropped_by(known, seen)
        return [Retain(seen.type_url, claims)] if claims and seen.type_url != _SECRET else []

    def _judged(self, known: _Type, seen: SotwRequest | DeltaRequest) -> list[Order]:
        nonce = seen.response_nonce
        if nonce not in known.waiting:
            return []
        body = known.waiting.pop(nonce)
        self._waiting_bytes -= len(body or b"")
        is_everything = isinstance(seen, SotwRequest) and seen.type_url not in NAMED_TYPES
        if seen.is_nack:
            if known.is_fresh and not is_everything:  # the next response is not all that Envoy holds then
                known.is_fresh = known.is_whole = False
            return []
        replaces = known.is_fresh or is_everything
        if body is None:
            was_whole, known.is_whole, known.is_fresh = known.is_whole, False, False
            return [Forget(seen.type_url, "too big")] if was_whole else []
        if not (known.is_whole or replaces):
            return []
        known.is_whole, known.is_fresh = True, False
        orders: list[Order] = [Accepted(seen.type_url, body, afresh=replaces)]
        unwanted = _unwanted_in(known, seen, body)
        return [*orders, _removal(seen, unwanted)] if unwanted else orders


def _dropped_by(known: _Type, seen: SotwRequest | DeltaRequest) -> set[bytes]:
    """Take the names of a request in; return what Envoy no longer asks for, and so no longer holds."""
    if isinstance(seen, SotwRequest):
        before, known.names = known.names, frozenset(seen.spans.all(_NAMES))
        known.dropped = (known.dropped | before) - known.names
        return set(before - known.names) if seen.type_url in NAMED_TYPES else set()
    known.wildcard = (known.wildcard or b"*" in seen.subscribe) and b"*" not in seen.unsubscribe
    known.dropped.update(seen.unsubscribe)
    known.dropped.difference_update(seen.subscribe)
    return set() if known.wildcard else known.dropped.intersection(seen.unsubscribe)


def _unwanted_in(known: _Type, seen: SotwRequest | DeltaRequest, body: bytes) -> set[bytes]:
    """Return the names in an accepted response that Envoy had unsubscribed from, and therefore ignored."""
    if not known.dropped or known.wildcard:
        return set()
    if isinstance(seen, DeltaRequest):
        return known.dropped.intersection(read_delta_response(body).versions())
    return set(known.dropped) if seen.type_url in NAMED_TYPES else set()


def _removal(seen: SotwRequest | DeltaRequest, names: set[bytes]) -> Order:
    if isinstance(seen, SotwRequest):
        return Retain(seen.type_url, dict.fromkeys(seen.spans.all(_NAMES), b""))
    removed = message(*(bytes_field(_REMOVED, name) for name in sorted(names)))
    return Accepted(seen.type_url, removed, afresh=False)
