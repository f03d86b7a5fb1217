"""What both variants remember of a stream of Envoy's, so that a new stream to istiod can be told.

Envoy's stream outlives the ones to istiod: each of those is a *leg*. A leg begins with requests that
restore what Envoy has subscribed to, and claim what it is known to hold; then Envoy's own follow. The
node stands in the first request of a leg, as istiod wants it, whoever wrote that request.

This is the part that `sotw` and `delta` share; it knows the order of legs and types and where the
node goes. What a type's first request says, and what a response means, is theirs.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

from pilot_agent.unreadable import UNREADABLE


class TypeRecord(Protocol):
    """What is remembered of one type URL."""

    is_told: bool  # this leg has had a request for the type

    @property
    def is_wanted(self) -> bool:
        """Return whether Envoy asks for anything; else a request would mean everything."""

    def lose_leg(self) -> None:
        """Note that istiod and its nonces are gone; what it sent may or may not be judged yet."""


T = TypeVar("T", bound=TypeRecord)


class KeptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record as another process takes it up."""

    node: bytes
    legs: int
    types: msgspec.Raw  # of one variant


class Record(ABC, Generic[T]):
    """The record of one stream; not thread-safe."""

    kind: ClassVar[type[TypeRecord]]  # T

    def __init__(self) -> None:
        self.node = b""  # the node field of Envoy's first request, with its tag
        self.types: dict[str, T] = {}  # in the order in which Envoy asked
        self._legs = 0
        self._leg_has_node = False

    def next_leg(self) -> list[bytes]:
        """Begin a new upstream stream; return the requests that restore Envoy's subscriptions on it."""
        self._legs += 1
        self._leg_has_node = False
        for each in self.types.values():
            each.lose_leg()
            each.is_told = each.is_wanted
        return [
            self._with_node(self._first_request(type_url, each), has_node=False)
            for type_url, each in self.types.items()
            if each.is_wanted
        ]

    def keep(self) -> KeptRecord:
        """Return from what another process can go on, with a leg of its own."""
        types = msgspec.Raw(msgspec.msgpack.encode(self.types))
        return KeptRecord(node=self.node, legs=self._legs, types=types)

    def resume(self, kept: KeptRecord) -> None:
        """Go on where another process was; `next_leg` is to come next.

        Raises:
            ValueError: it was another version, which keeps something else.
        """
        try:
            self.types = msgspec.msgpack.decode(kept.types, type=dict[str, self.kind])  # type: ignore[name-defined]  # known at run time alone
        except UNREADABLE as error:
            raise ValueError(f"subscriptions of the version before: {error}") from error
        self.node, self._legs = kept.node, kept.legs

    @abstractmethod
    def request(self, body: bytes) -> bytes | None:
        """Note a request of Envoy's; return what goes upstream: `body` itself, another one, or None.

        Raises:
            WireError: `body` is no request of this variant.
        """

    @abstractmethod
    def response(self, body: bytes) -> None:
        """Note a response of this leg that goes to Envoy.

        Raises:
            WireError: `body` is no response of this variant.
        """

    @abstractmethod
    def _first_request(self, type_url: str, known: T) -> bytes:
        """Return the request that restores this type on a new leg, without the node."""

    @property
    def _is_resumed(self) -> bool:
        """Return whether Envoy may still speak of responses of an older leg."""
        return self._legs > 1

    def _with_node(self, body: bytes, *, has_node: bool) -> bytes:
        """Return `body`, with the node before it if this leg has not had one."""
        if self._leg_has_node or has_node or not self.node:
            self._leg_has_node = self._leg_has_node or has_node
            return body
        self._leg_has_node = True
        return self.node + body
