"""The filters whose modules could be had: what Envoy keeps where the module of a newer one cannot. Pure.

By name, for all streams: an Envoy that is started later gets what the one before it runs; also where
that one has rejected what came after it. A name that istiod takes away, or gives to something that fetches
nothing, has no last good filter any more.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from pilot_agent.wire import WireError
from pilot_agent.xds.envelope import Spans

_NONCE: Final = 5  # in both kinds of response
LIMIT_BYTES: Final = 4 << 20
"""Of all that is kept; what does not fit has no last good filter."""


class Good(msgspec.Struct, frozen=True):
    """One filter as Envoy got it."""

    resource: bytes  # the encoded Any
    file: str  # of its module
    rejected: bytes = b""  # the resource behind it, which Envoy did not take


class _Tried(NamedTuple):
    """A new filter that went to Envoy in one response, alone."""

    nonce: str
    name: str
    before: Good | None


class LastGood:
    """What was delivered last, and which names stand on it although istiod has told of something newer."""

    def __init__(self, known: Mapping[str, Good]) -> None:
        self.known: dict[str, Good] = dict(known)
        self.standing: set[str] = set()
        self._had: dict[object, set[str]] = {}  # SotW: the names of a stream's last response
        self._given: dict[object, set[str]] = {}  # names for which a stream's Envoy has got a filter
        self._tried: dict[object, _Tried] = {}  # waits for Envoy's ACK or NACK, by stream

    def offered_to(self, stream: object) -> dict[str, Good]:
        """Return what may go out on a stream instead of what istiod tells of.

        An Envoy that has the filter already keeps it by itself, and is to reject again what it rejected.
        """
        given = self._given.get(stream, ())
        return {
            name: msgspec.structs.replace(good, rejected=b"") if name in given else good
            for name, good in self.known.items()
        }

    def delivered(
        self,
        stream: object,
        variant: Literal["sotw", "delta"],
        body: bytes,
        fresh: Mapping[str, Good],
        stale: Collection[str],
    ) -> bool:
        """Note a response that goes to Envoy; return whether `known` is another one now.

        `fresh` are the filters that were converted for it, `stale` the names for which the last good one
        stands in it.
        """
        before = dict(self.known)
        try:
            spans = Spans(body)
        except WireError:
            return False  # Envoy will say so
        names = set(names_in(spans, variant))
        if variant == "delta":
            gone = {name.decode(errors="replace") for name in spans.all(6)}
        else:
            gone = self._had.get(stream, set()) - names
            self._had[stream] = names
        kept = {name for name in names.intersection(fresh) if self._is_rejected(name, fresh[name])}
        for name in gone | (names - set(stale) - kept):
            self.known.pop(name, None)
            self.standing.discard(name)
        changed = []
        for name in names.intersection(fresh) - kept:
            self._keep(name, fresh[name])
            old = before.get(name)
            if old is None or old.resource != fresh[name].resource:
                changed.append(_Tried(spans.text(_NONCE), name, old))
        if len(changed) == 1:
            self._tried[stream] = changed[0]
        else:
            self._tried.pop(stream, None)  # of several nobody could tell which one a NACK is about
        self._given.setdefault(stream, set()).update(names.intersection((*fresh, *stale)))
        self.standing |= names.intersection(stale)
        return self.known != before

    def judged(self, stream: object, nonce: str, *, is_nack: bool) -> bool:
        """Note what Envoy says to a response; return whether `known` is another one now."""
        tried = self._tried.get(stream)
        if tried is None or tried.nonce != nonce:
            return False
        del self._tried[stream]
        new = self.known.get(tried.name)
        if not is_nack or new is None:
            return False
        if tried.before is None:
            del self.known[tried.name]
        else:
            self.known[tried.name] = msgspec.structs.replace(tried.before, rejected=new.resource)
        return True

    def closed(self, stream: object) -> None:
        """Forget what a stream had; its filters may be asked for by the next one."""
        self._had.pop(stream, None)
        self._given.pop(stream, None)
        self._tried.pop(stream, None)

    def _is_rejected(self, name: str, good: Good) -> bool:
        known = self.known.get(name)
        return known is not None and known.rejected == good.resource

    def _keep(self, name: str, good: Good) -> None:
        size = sum(len(each.resource) + len(each.rejected) for each in self.known.values())
        if size + len(good.resource) <= LIMIT_BYTES:
            self.known[name] = good


def names_in(response: Spans, variant: Literal["sotw", "delta"]) -> Iterator[str]:
    """Yield the names of the extension configurations in a response; what cannot be read has none."""
    for entry in response.all(2):
        try:
            resource = entry if variant == "sotw" else Spans(entry).last(2) or b""
            yield Spans(Spans(resource).last(2) or b"").text(1)
        except WireError:
            continue
