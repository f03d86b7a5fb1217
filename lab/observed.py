"""What the lab has seen, so that a test can wait for it and a demo can show it."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

_KEPT = 20_000  # events of each kind; the counters know of all


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSeen:
    stream_id: int
    variant: Literal["sotw", "delta"]
    peer: str
    headers: Mapping[str, str]
    identity: str  # SPIFFE ID or service account that the caller proved, empty on plaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSeen:
    """One request.

    `verdict`: "subscribe", "ack", "nack", "stale", "health", "early health" (ignored) or "unanswered".
    """

    stream_id: int
    node_id: str
    type_url: str
    verdict: str
    response_nonce: str
    version_info: str
    subscribe: tuple[str, ...]  # SotW: resource_names
    unsubscribe: tuple[str, ...]
    initial_resource_versions: Mapping[str, str]
    error_message: str
    has_node: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSent:
    stream_id: int
    type_url: str
    nonce: str
    version_info: str
    names: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSeen:
    stream_id: int
    node_id: str
    healthy: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CsrSeen:
    """One signing request. `outcome` is "signed" or the name of the status code that it was refused with."""

    outcome: str
    spiffe_id: str
    validity_s: int
    serial_number: str
    key_type: str
    cert_signer: str
    headers: Mapping[str, str]


def _events() -> deque:  # type: ignore[type-arg] # one factory for five element types
    return deque(maxlen=_KEPT)


@dataclass(slots=True)
class Observed:
    """Events in order of arrival, and counters. Read it inside `wait_until`, or when all is quiet."""

    streams: deque[StreamSeen] = field(default_factory=_events)
    requests: deque[RequestSeen] = field(default_factory=_events)
    responses: deque[ResponseSent] = field(default_factory=_events)
    health: deque[HealthSeen] = field(default_factory=_events)
    csrs: deque[CsrSeen] = field(default_factory=_events)
    open_streams: set[int] = field(default_factory=set)
    refused_streams: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (verdict or "sent", type URL)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def note(self, change: Callable[["Observed"], object]) -> None:
        """Apply one change and wake who waits."""
        with self._changed:
            change(self)
            self._changed.notify_all()

    def wait_until(self, holds: Callable[["Observed"], object], timeout_s: float = 10.0) -> None:
        """Return when `holds` is true.

        Raises:
            TimeoutError: it did not come true in time; the text tells what was seen instead.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not holds(self):
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    if holds(self):
                        return
                    raise TimeoutError(f"not seen within {timeout_s} s; seen: {self.summary()}")

    def acks(self, type_url: str) -> int:
        return self.counts["ack", type_url]

    def nacks(self, type_url: str) -> int:
        return self.counts["nack", type_url]

    def sent(self, type_url: str) -> int:
        return self.counts["sent", type_url]

    def nack_messages(self) -> list[str]:
        return [f"{one.type_url}: {one.error_message}" for one in self.requests if one.verdict == "nack"]

    def last_health(self, node_id: str) -> HealthSeen | None:
        return next((one for one in reversed(self.health) if one.node_id == node_id), None)

    def csrs_signed(self) -> int:
        return self.counts["csr", "signed"]

    def summary(self) -> str:
        counted = ", ".join(
            f"{what} {kind.rpartition('.')[2]} {n}" for (what, kind), n in self.counts.items()
        )
        return f"{len(self.streams)} streams ({len(self.open_streams)} open); {counted or 'nothing'}"
