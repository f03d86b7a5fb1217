"""One SDS stream as a pure state machine: what a request or a change of material asks for.

Source: the reference's SDS server, request handling. Its crash on a NACK without a subscription is not
kept: such a NACK is noted and that is all.
"""

from typing import Final

import msgspec

from pilot_agent.security.sds_wire import HEALTH_TYPE, DiscoveryRequest


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """What the stream is subscribed to. `nonce` is of the last response; empty: none was sent."""

    identified: bool = False  # a node with an id was seen
    resource_names: tuple[str, ...] = ()
    subscribed: bool = False
    nonce: str = ""


NEW_STREAM: Final = Subscription()


class Respond(msgspec.Struct, frozen=True, kw_only=True):
    """Answer with exactly these names, in this order."""

    resource_names: tuple[str, ...]
    initial: bool  # a subscription from scratch, not an addition
    known: dict[str, str] = {}  # delta: name → version that the client has; not sent again


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """The last response was taken."""


class Nack(msgspec.Struct, frozen=True, kw_only=True):
    """A response was rejected; Envoy keeps what it has."""

    code: int
    message: str


class Stale(msgspec.Struct, frozen=True, kw_only=True):
    """The nonce is not the last one: a newer response is on its way."""

    got: str
    expected: str


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is wanted any more; delta: these are not."""

    resource_names: tuple[str, ...] = ()


class Ignore(msgspec.Struct, frozen=True, kw_only=True):
    """Not for this server."""


class MissingNode(msgspec.Struct, frozen=True, kw_only=True):
    """The first request names no node: the stream ends with INVALID_ARGUMENT."""


Reaction = Respond | Ack | Nack | Stale | Unsubscribe | Ignore | MissingNode


def react(now: Subscription, request: DiscoveryRequest) -> tuple[Subscription, Reaction]:
    """Return the subscription after this request, and what to do about it."""
    if not now.identified:
        if request.type_url == HEALTH_TYPE:
            return now, Ignore()
        if not request.node_id:
            return now, MissingNode()
        now = msgspec.structs.replace(now, identified=True)
    if request.error_message is not None:
        return now, Nack(code=request.error_code, message=request.error_message)
    if not request.resource_names:
        return msgspec.structs.replace(now, resource_names=(), subscribed=False), Unsubscribe()
    wanted = tuple(dict.fromkeys(request.resource_names))
    if not request.response_nonce or not now.subscribed:
        return _subscribed(now, wanted), Respond(resource_names=wanted, initial=True)
    if request.response_nonce != now.nonce:
        return now, Stale(got=request.response_nonce, expected=now.nonce)
    added = tuple(name for name in wanted if name not in now.resource_names)
    reaction = Respond(resource_names=added, initial=False) if added else Ack()
    return _subscribed(now, wanted), reaction


def _subscribed(now: Subscription, resource_names: tuple[str, ...]) -> Subscription:
    return msgspec.structs.replace(now, resource_names=resource_names, subscribed=True)


def sent(now: Subscription, nonce: str) -> Subscription:
    """Return the subscription after a response with this nonce."""
    return msgspec.structs.replace(now, nonce=nonce)
