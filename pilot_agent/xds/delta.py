"""What Envoy asked for and holds on one incremental stream, so that a new upstream stream can be told.

A new leg (see `record`) starts with the subscriptions and, in `initial_resource_versions`, with the
names of what Envoy may hold: so istiod itself reports what was removed while it was away. A version
stands there only where Envoy is known to hold exactly that; where it is unsure (rejected, not answered
yet, asked for again) the version is empty, and istiod sends the resource anew.
"""

from typing import Final

import msgspec

from pilot_agent.wire import bytes_field, message, text_field
from pilot_agent.xds.envelope import DeltaRequest, read_delta_names, read_delta_request
from pilot_agent.xds.record import Record

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

    def lose_leg(self) -> None:
        for sent in self.unanswered.values():
            self.held.update(dict.fromkeys((*sent.versions, *sent.removed), _UNSURE))
        self.unanswered.clear()
        self.last_nonce = ""

    def wants(self, name: bytes) -> bool:
        """Return whether Envoy keeps a resource of this name; it ignores what it did not ask for."""
        return self.wildcard or name in self.names


class DeltaSubscriptions(Record[_Type]):
    """The record of one stream; not thread-safe."""

    kind = _Type

    def request(self, body: bytes) -> bytes | None:
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
        seen = read_delta_names(body)
        known = self.types.get(seen.type_url)
        if known is not None and seen.nonce:
            known.unanswered[seen.nonce] = _Sent(seen.versions, seen.removed)

    def _first_request(self, type_url: str, known: _Type) -> bytes:
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

    def _is_stale(self, seen: DeltaRequest, known: _Type) -> bool:
        nonce = seen.response_nonce
        if not self._is_resumed or not nonce:
            return False
        return nonce not in known.unanswered and nonce != known.last_nonce


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
        known.held.update(dict.fromkeys((*sent.versions, *sent.removed), _UNSURE))
        return
    if known.wildcard:  # 20,000 names in one go
        known.held.update(sent.versions)
    else:
        known.held.update({name: version for name, version in sent.versions.items() if name in known.names})
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


def _only_the_change(seen: DeltaRequest) -> bytes:
    """Return the change of subscription as an unprompted request, which names no response."""
    return message(
        text_field(_TYPE_URL, seen.type_url),
        *(bytes_field(_SUBSCRIBE, name) for name in seen.subscribe),
        *(bytes_field(_UNSUBSCRIBE, name) for name in seen.unsubscribe),
    )
