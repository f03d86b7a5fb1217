"""A control plane that speaks from what was kept: the other end of a leg while istiod cannot be reached.

Pure but for `find`, which reads a type's content. It answers only what Envoy does not hold: a type for
which Envoy claims something was served before, by istiod or from here on an earlier leg.
"""

from collections.abc import Callable

from pilot_agent.xds.envelope import (
    DeltaRequest,
    SotwRequest,
)
from pilot_agent.xds.known_good.content import Content

NONCE_PREFIX = "last-known-good/"
_NAMES = 3


class _Type:
    def __init__(self, content: Content | None) -> None:
        self.content = content
        self.wildcard = False
        self.names: dict[bytes, None] = {}
        self.sent: set[bytes] = set()
        self.is_answered = False


class Answers:
    """For one leg; not thread-safe."""

    def __init__(self, find: Callable[[str], Content | None]) -> None:
        self._find = find
        self._types: dict[str, _Type] = {}
        self._count = 0

    def answer(self, seen: SotwRequest | DeltaRequest) -> bytes | None:
        """Return the response to a request of Envoy's, None if there is none."""
        known = self._types.get(seen.type_url)
        if known is None:
            known = self._types[seen.type_url] = _Type(None if claims(seen) else self._find(seen.type_url))
            _first(known, seen)
        elif isinstance(seen, SotwRequest):
            known.names = dict.fromkeys(seen.spans.all(_NAMES))
        else:
            _change(known, seen)
        return self._response(known)

    def _response(self, known: _Type) -> bytes | None:
        content = known.content
        if content is None:
            return None
        wanted = [
            name
            for name in (content.resources if known.wildcard else known.names)
            if name in content.resources
        ]
        news = [name for name in wanted if name not in known.sent]
        if not news and (known.is_answered or not known.wildcard):
            return None
        known.is_answered = True
        known.sent.update(news)
        self._count += 1
        # A state-of-the-world response is everything that is asked for, a delta response the news.
        names = wanted if content.variant == "sotw" else news
        return content.response(names, f"{NONCE_PREFIX}{self._count}")


def claims(seen: SotwRequest | DeltaRequest) -> bool:
    """Return whether Envoy says that it holds something of the type."""
    if isinstance(seen, SotwRequest):
        return bool(seen.version_info)
    return seen.spans.count(5) > 0


def _first(known: _Type, seen: SotwRequest | DeltaRequest) -> None:
    if isinstance(seen, SotwRequest):
        known.names = dict.fromkeys(seen.spans.all(_NAMES))
        known.wildcard = not known.names
    else:
        known.wildcard = not seen.subscribe
        _change(known, seen)


def _change(known: _Type, seen: DeltaRequest) -> None:
    """Apply a change of subscription; what is asked for again is sent again."""
    for name in seen.unsubscribe:
        known.names.pop(name, None)
        known.sent.discard(name)
        known.wildcard = known.wildcard and name != b"*"
    for name in seen.subscribe:
        if name == b"*":
            known.wildcard = True
        else:
            known.names[name] = None
            known.sent.discard(name)
