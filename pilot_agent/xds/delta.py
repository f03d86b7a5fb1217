"""What Envoy asked for and holds on one incremental stream, so that a new upstream stream can be told.

As in `sotw`, each upstream stream is a *leg* of Envoy's. A new leg starts with the subscriptions and,
in `initial_resource_versions`, with the names of what Envoy may hold: so istiod itself reports what
was removed while it was away. A version stands there only where Envoy is known to hold exactly that;
where it is unsure (rejected, not answered yet, asked for again) the version is empty, and istiod
sends the resource anew.
"""

from typing import Final

import msgspec

from pilot_agent.wire import bytes_field, message, text_field
from pilot_agent.xds.envelope import DeltaRequest, read_delta_request, read_delta_response

_NODE, _TYPE_URL, _SUBSCRIBE, _UNSUBSCRIBE, _INITIAL = 1, 2, 3, 4, 5
_WILDCARD: Final = b"*"
_UNSURE: Final = b""


class _Sent(msgspec.Struct):
    """One response that went to Envoy and is not answered yet."""

    versions: dict[bytes, bytes]
    removed: list[bytes]


class _Type(msgspec.Struct):
    legacy_wildcard: bool  # the first request named nothing, which means everything
    wildcard: bool
    names: dict[bytes, None] = msgspec.field(default_factory=dict)  # subscribed, in order, without "*"
    held: dict[bytes, bytes] = msgspec.field(default_factory=dict)  # name → version that Envoy may hold
    # Nonce → response of this leg, in order.
    unanswered: dict[str, _Sent] = msgspec.field(default_factory=dict)
    last_nonce: str = ""  # of this leg, answered by Envoy; may be named again
    is_told: bool = False  # this leg has had a request for the type

    @property
    def is_wanted(self) -> bool:
        return self.wildcard or bool(self.names)

    def wants(self, name: bytes) -> bool:
        """Return whether Envoy keeps a resource of this name; it ignores what it did not ask for."""
        return self.wildcard or name in self.names


class DeltaSubscriptions:
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
            for sent in each.unanswered.values():
                each.held.update(dict.fromkeys((*sent.versions, *sent.removed), _UNSURE))
            each.unanswered.clear()
            each.last_nonce = ""
            each.is_told = each.is_wanted
        return [
            self._with_node(_first_request(type_url, each), has_node=False)
            for type_url, each in self.types.items()
            if each.is_wanted
        ]

    def request(self, body: bytes) -> bytes | None:
        """Note a request of Envoy's; return what goes upstream: `body` itself, another one, or None.

        Raises:
            WireError: `body` is no DeltaDiscoveryRequest.
        """
        seen = read_delta_request(body)
        if seen.has_node and not self.node:
            self.node = seen.spans.encoded(_NODE)
        known = self.types.get(seen.type_url)
        if known is None:
            self.types[seen.type_url] = known = _first_seen(seen)
            known.is_told = True
        stale = self._is_stale(seen, known)
        if not stale:
            _answered(known, seen)
        _subscribed(known, seen)
        if not (known.is_told or seen.subscribe):
            return None  # without a name, the first request of a leg would mean everything
        known.is_told = True
        if stale:
            if not (seen.subscribe or seen.unsubscribe):
                return None
            return self._with_node(_only_the_change(seen), has_node=False)
        return self._with_node(body, has_node=seen.has_node)

    def response(self, body: bytes) -> None:
        """Note a response of this leg that goes to Envoy.

        Raises:
            WireError: `body`, or a resource in it, is malformed.
        """
        seen = read_delta_response(body)
        known = self.types.get(seen.type_url)
        if known is not None and seen.nonce:
            known.unanswered[seen.nonce] = _Sent(seen.versions(), seen.removed)

    def _is_stale(self, seen: DeltaRequest, known: _Type) -> bool:
        nonce = seen.response_nonce
        return self._legs > 1 and bool(nonce) and nonce not in known.unanswered and nonce != known.last_nonce

    def _with_node(self, body: bytes, *, has_node: bool) -> bytes:
        """Return `body`, with the node before it if this leg has not had one."""
        if self._leg_has_node or has_node or not self.node:
            self._leg_has_node = self._leg_has_node or has_node
            return body
        self._leg_has_node = True
        return self.node + body


def _first_seen(seen: DeltaRequest) -> _Type:
    nothing_named = not seen.subscribe
    return _Type(legacy_wildcard=nothing_named, wildcard=nothing_named, held=seen.initial_resource_versions())


def _answered(known: _Type, seen: DeltaRequest) -> None:
    """Take the response that Envoy accepted, or rejected, into what it holds."""
    sent = known.unanswered.pop(seen.response_nonce, None)
    if sent is None:
        return
    known.last_nonce = seen.response_nonce
    if seen.is_nack:  # it may have taken a part
        known.held.update(dict.fromkeys(sent.versions, _UNSURE))
        return
    known.held.update({name: version for name, version in sent.versions.items() if known.wants(name)})
    for name in sent.removed:
        known.held.pop(name, None)


def _subscribed(known: _Type, seen: DeltaRequest) -> None:
    """Apply the change of subscription; a name asked for again wants its resource again."""
    for name in seen.unsubscribe:
        known.names.pop(name, None)
        if name == _WILDCARD:
            known.wildcard = known.legacy_wildcard = False
            _let_go(known, [held for held in known.held if held not in known.names])
        elif not known.wildcard:
            _let_go(known, [name])
    for name in seen.subscribe:
        if name == _WILDCARD:
            known.wildcard = True
            continue
        known.names[name] = None
        if name in known.held and not seen.spans.count(_INITIAL):
            known.held[name] = _UNSURE
        _doubt(known, name)


def _let_go(known: _Type, names: list[bytes]) -> None:
    """Forget resources that Envoy drops because it no longer asks for them."""
    for name in names:
        known.held.pop(name, None)
        _doubt(known, name)


def _doubt(known: _Type, name: bytes) -> None:
    """Note that Envoy may have read an unanswered response before or after it changed its mind."""
    for sent in known.unanswered.values():
        if name in sent.versions:
            sent.versions[name] = _UNSURE


def _first_request(type_url: str, known: _Type) -> bytes:
    names = tuple(known.names)
    if known.wildcard and (names or not known.legacy_wildcard):
        names = (_WILDCARD, *names)
    return message(
        text_field(_TYPE_URL, type_url),
        *(bytes_field(_SUBSCRIBE, name) for name in names),
        *(
            bytes_field(_INITIAL, message(bytes_field(1, name), bytes_field(2, version)))
            for name, version in known.held.items()
            if known.wants(name)  # a name that stands here counts as subscribed with istiod
        ),
    )


def _only_the_change(seen: DeltaRequest) -> bytes:
    """Return the change of subscription as an unprompted request, which names no response."""
    return message(
        text_field(_TYPE_URL, seen.type_url),
        *(bytes_field(_SUBSCRIBE, name) for name in seen.subscribe),
        *(bytes_field(_UNSUBSCRIBE, name) for name in seen.unsubscribe),
    )
