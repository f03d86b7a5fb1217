"""What Envoy asked for on one state-of-the-world stream, so that a new upstream stream can be told.

On a new leg (see `record`) the subscriptions are sent again, without nonce. The version that Envoy
accepted last stands there only where Envoy is known to hold exactly that: not after a rejection, not
while a response is unanswered, and not when names changed on the leg, since then nobody can tell
whether the response knew of the change. Without a version istiod answers in full. What Envoy still
says about responses of an older leg is kept from the new one, but a change of subscription in it is not.
"""

from typing import Final

import msgspec

from pilot_agent.wire import text_field
from pilot_agent.xds.envelope import SotwRequest, read_sotw_request, read_sotw_response
from pilot_agent.xds.record import Record

_VERSION, _NODE, _NAMES, _NONCE, _ERROR = 1, 2, 3, 5, 6
NONCES_KEPT: Final = 64
"""Responses of one type that Envoy has not answered yet; istiod waits for each answer, so one is usual."""


class _Type(msgspec.Struct):
    asked: bytes  # the last request without node, version, nonce and error: type URL and names
    ever_named: bool  # names were given once, so that none means unsubscribed, no longer "all"
    names: bool  # names are given now
    version_info: str = ""  # of all that Envoy holds; empty where that is not known exactly
    is_steady: bool = True  # the names are those with which this leg began
    is_told: bool = True  # this leg has had a request for the type
    # Of this leg, oldest first; the last one answered stays.
    nonces: list[str] = msgspec.field(default_factory=list)
    answered_nonce: str = ""  # of this leg

    @property
    def is_wanted(self) -> bool:
        return self.names or not self.ever_named

    @property
    def is_settled(self) -> bool:
        """Return whether Envoy has judged everything that this leg said."""
        return not self.nonces or self.nonces[-1] == self.answered_nonce

    def lose_leg(self) -> None:
        if not self.is_settled:
            self.version_info = ""
        self.nonces.clear()
        self.answered_nonce, self.is_steady = "", True


class SotwSubscriptions(Record[_Type]):
    """The record of one stream; not thread-safe."""

    kind = _Type

    def request(self, body: bytes) -> bytes | None:
        seen = read_sotw_request(body)
        if seen.has_node and not self.node:
            self.node = seen.spans.encoded(_NODE)
        known, changed = self._note(seen)
        if not (known.is_told or known.is_wanted):
            return None  # unsubscribed; as the first request of a leg it would mean everything
        known.is_told = True
        if self._is_stale(seen, known):
            if not changed:
                return None
            # As a first request: a nonce of this leg would accept a response that Envoy has not judged.
            return self._with_node(known.asked, has_node=False)
        _answered(known, seen)
        return self._with_node(body, has_node=seen.has_node)

    def response(self, body: bytes) -> None:
        seen = read_sotw_response(body)
        known = self.types.get(seen.type_url)
        if known is not None and seen.nonce:
            known.nonces.append(seen.nonce)
            del known.nonces[:-NONCES_KEPT]

    def _first_request(self, type_url: str, known: _Type) -> bytes:
        del type_url  # stands in what was asked
        return text_field(_VERSION, known.version_info) + known.asked

    def _note(self, seen: SotwRequest) -> tuple[_Type, bool]:
        """Take the names in; return the type's record and whether they changed."""
        asked = seen.spans.without(_VERSION, _NODE, _NONCE, _ERROR)
        names = seen.spans.count(_NAMES) > 0
        before = self.types.get(seen.type_url)
        if before is None:  # an Envoy that reconnects says itself what it holds
            self.types[seen.type_url] = known = _Type(asked, names, names, version_info=seen.version_info)
            return known, True
        changed = before.asked != asked
        if changed:
            before.version_info, before.is_steady = "", False
        before.asked, before.names, before.ever_named = asked, names, before.ever_named or names
        return before, changed

    def _is_stale(self, seen: SotwRequest, known: _Type) -> bool:
        return self._is_resumed and bool(seen.response_nonce) and seen.response_nonce not in known.nonces


def _answered(known: _Type, seen: SotwRequest) -> None:
    """Take in what Envoy says about a response of this leg."""
    nonce = seen.response_nonce
    if not nonce:
        return
    if nonce in known.nonces:
        del known.nonces[: known.nonces.index(nonce)]
        known.answered_nonce = nonce
    if seen.is_nack:  # it may have taken a part
        known.version_info = ""
    elif known.is_steady:
        known.version_info = seen.version_info
