"""What Envoy asked for on one state-of-the-world stream, so that a new upstream stream can be told.

Envoy's stream outlives the upstream ones: each of those is a *leg*. On a new leg the subscriptions
are sent again without version and nonce; what Envoy still says about responses of an older leg is
kept from the new one, but a change of subscription in it is not.
"""

from typing import Final

import msgspec

from pilot_agent.xds.envelope import SotwRequest, read_sotw_request, read_sotw_response

_VERSION, _NODE, _NAMES, _NONCE, _ERROR = 1, 2, 3, 5, 6
NONCES_KEPT: Final = 64
"""Responses of one type that Envoy has not answered yet; istiod waits for each answer, so one is usual."""


class _Type(msgspec.Struct):
    asked: bytes  # the last request without node, version, nonce and error: type URL and names
    ever_named: bool  # names were given once, so that none means unsubscribed, no longer "all"
    names: bool  # names are given now
    version_info: str = ""  # of the last response that Envoy accepted
    is_told: bool = True  # this leg has had a request for the type
    # Of this leg, oldest first; the last accepted stays.
    nonces: list[str] = msgspec.field(default_factory=list)

    @property
    def is_wanted(self) -> bool:
        return self.names or not self.ever_named


class SotwSubscriptions:
    """The record of one stream; not thread-safe."""

    def __init__(self) -> None:
        self.node = b""  # the node field of Envoy's first request, with its tag
        self.types: dict[str, _Type] = {}  # in the order in which Envoy asked
        self._legs = 0
        self._leg_has_node = False

    def next_leg(self) -> list[bytes]:
        """Begin a new upstream stream; return the requests that restore Envoy's subscriptions on it."""
        self._legs += 1
        self._leg_has_node = False
        for each in self.types.values():
            each.nonces.clear()
            each.is_told = each.is_wanted
        return [self._with_node(each.asked, has_node=False) for each in self.types.values() if each.is_wanted]

    def request(self, body: bytes) -> bytes | None:
        """Note a request of Envoy's; return what goes upstream: `body` itself, another one, or None.

        Raises:
            WireError: `body` is no DiscoveryRequest.
        """
        seen = read_sotw_request(body)
        if seen.has_node and not self.node:
            self.node = seen.spans.encoded(_NODE)
        before = self.types.get(seen.type_url)
        known, changed = self._note(seen, before)
        if not (known.is_told or known.is_wanted):
            return None  # unsubscribed; as the first request of a leg it would mean everything
        known.is_told = True
        if self._is_stale(seen, known):
            if not changed:
                return None
            # As a first request: a nonce of this leg would accept a response that Envoy has not judged.
            return self._with_node(known.asked, has_node=False)
        if seen.response_nonce in known.nonces:
            del known.nonces[: known.nonces.index(seen.response_nonce)]
        if seen.response_nonce and not seen.is_nack:
            known.version_info = seen.version_info
        return self._with_node(body, has_node=seen.has_node)

    def response(self, body: bytes) -> None:
        """Note a response of this leg that goes to Envoy.

        Raises:
            WireError: `body` is no DiscoveryResponse.
        """
        seen = read_sotw_response(body)
        known = self.types.get(seen.type_url)
        if known is not None and seen.nonce:
            known.nonces.append(seen.nonce)
            del known.nonces[:-NONCES_KEPT]

    def _note(self, seen: SotwRequest, before: _Type | None) -> tuple[_Type, bool]:
        asked = seen.spans.without(_VERSION, _NODE, _NONCE, _ERROR)
        names = seen.spans.count(_NAMES) > 0
        if before is None:
            self.types[seen.type_url] = known = _Type(asked, names, names)
            return known, True
        changed = before.asked != asked
        before.asked, before.names, before.ever_named = asked, names, before.ever_named or names
        return before, changed

    def _is_stale(self, seen: SotwRequest, known: _Type) -> bool:
        return self._legs > 1 and bool(seen.response_nonce) and seen.response_nonce not in known.nonces

    def _with_node(self, body: bytes, *, has_node: bool) -> bytes:
        """Return `body`, with the node before it if this leg has not had one."""
        if self._leg_has_node or has_node or not self.node:
            self._leg_has_node = self._leg_has_node or has_node
            return body
        self._leg_has_node = True
        return self.node + body
