"""Conversions of one stream that are under way: which results still count when they come.

In SotW a response is the whole state, so a newer one makes an older one pointless. In delta a response
tells of some names alone: what a newer one says of a name, the content or that it is gone, makes what
an older one said of it pointless, and the rest of the older one still counts. Results may come in any
order; Envoy never gets an older state of a name after a newer one. Pure.
"""

from typing import Literal

import msgspec

from pilot_agent.wire import bytes_field
from pilot_agent.xds.envelope import DeltaResponse, SotwResponse, Spans, read_delta_response

Variant = Literal["sotw", "delta"]


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """One response that is being converted."""

    number: int
    leg: int  # of the stream to istiod; a result of an older leg is worth nothing
    nonce: str


class _Waiting(msgspec.Struct, kw_only=True):
    ticket: Ticket
    superseded: set[bytes] = set()  # names that a newer response tells of


class InFlight:
    """The conversions of one stream, in the order in which istiod sent the responses."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._waiting: dict[int, _Waiting] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def arrived(self, response: SotwResponse | DeltaResponse, leg: int) -> Ticket:
        """Note an ECDS response, to be converted or not, and what it supersedes; `finished` ends it."""
        for number, waiting in list(self._waiting.items()):
            if waiting.ticket.leg != leg or self._variant == "sotw":
                del self._waiting[number]
        if isinstance(response, DeltaResponse):
            names = set(response.versions()) | set(response.removed)
            for waiting in self._waiting.values():
                waiting.superseded |= names
        self._last += 1
        ticket = Ticket(number=self._last, leg=leg, nonce=response.nonce)
        self._waiting[ticket.number] = _Waiting(ticket=ticket)
        return ticket

    def finished(self, ticket: Ticket, body: bytes) -> bytes | None:
        """Return what of a converted response still counts, None if nothing does."""
        waiting = self._waiting.pop(ticket.number, None)
        if waiting is None:
            return None
        return without_names(body, waiting.superseded) if waiting.superseded else body

    def is_awaited(self, ticket: Ticket) -> bool:
        """Return whether anybody still waits for this conversion."""
        return ticket.number in self._waiting

    def failed(self, ticket: Ticket) -> bool:
        """Forget a conversion that was rejected; return whether istiod should be told."""
        return self._waiting.pop(ticket.number, None) is not None


def without_names(body: bytes, names: set[bytes]) -> bytes | None:
    """Return a delta response without what it says of these names, None if it says nothing else."""
    spans = read_delta_response(body).spans
    kept = [entry for entry in spans.all(2) if (Spans(entry).last(3) or b"") not in names]
    removed = [name for name in spans.all(6) if name not in names]
    if not kept and not removed:
        return None
    parts = [bytes_field(2, entry) for entry in kept] + [bytes_field(6, name) for name in removed]
    return b"".join((spans.without(2, 6), *parts))
