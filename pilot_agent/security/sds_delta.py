"""Delta SDS (DeltaSecrets): its wire format and what a request asks for. The reference has SotW alone.

A secret is never removed here, so responses only add and change. Field numbers:
envoy.service.discovery.v3, DeltaDiscoveryRequest and DeltaDiscoveryResponse.
"""

from collections.abc import Iterable

import msgspec

from pilot_agent.security.sds_stream import (
    Ack,
    Ignore,
    MissingNode,
    Nack,
    Reaction,
    Respond,
    Subscription,
    Unsubscribe,
)
from pilot_agent.security.sds_wire import (
    HEALTH_TYPE,
    SECRET_TYPE,
    WIRE_BYTES,
    number_at,
    packed_any,
    text_at,
    text_of,
)
from pilot_agent.wire import bytes_field, fields, message, text_field


class DeltaRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the SDS server looks at in a DeltaDiscoveryRequest."""

    node_id: str = ""
    type_url: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: dict[str, str] = {}  # what the client has from an earlier stream
    response_nonce: str = ""
    error_code: int = 0
    error_message: str | None = None  # None: no error_detail, so no NACK


def decode_delta_request(data: bytes) -> DeltaRequest:
    """Read a DeltaDiscoveryRequest.

    Raises:
        WireError: the bytes are none.
    """
    members: dict[str, object] = {}
    subscribe: list[str] = []
    unsubscribe: list[str] = []
    versions: dict[str, str] = {}
    for part in fields(data):
        if part.wire_type != WIRE_BYTES:
            continue
        start, end = part.start, part.end
        match part.number:
            case 1:
                members["node_id"] = text_at(data, start, end, 1)
            case 2:
                members["type_url"] = text_of(data, start, end)
            case 3:
                subscribe.append(text_of(data, start, end))
            case 4:
                unsubscribe.append(text_of(data, start, end))
            case 5:
                versions[text_at(data, start, end, 1)] = text_at(data, start, end, 2)
            case 6:
                members["response_nonce"] = text_of(data, start, end)
            case 7:
                members |= {
                    "error_message": text_at(data, start, end, 2),
                    "error_code": number_at(data, start, end, 1),
                }
            case _:
                pass
    return msgspec.convert(
        members | {"subscribe": subscribe, "unsubscribe": unsubscribe, "initial_versions": versions},
        DeltaRequest,
    )


def encode_delta_response(
    *, version_info: str, nonce: str, secrets: Iterable[tuple[str, str, bytes]]
) -> bytes:
    """Return a DeltaDiscoveryResponse; `secrets` are (name, version, encoded Secret)."""
    resources = (
        bytes_field(
            2,
            message(
                text_field(1, version),
                bytes_field(2, packed_any(SECRET_TYPE, secret)),
                text_field(3, name),
            ),
        )
        for name, version, secret in secrets
    )
    return message(text_field(1, version_info), *resources, text_field(4, SECRET_TYPE), text_field(5, nonce))


def react_delta(now: Subscription, request: DeltaRequest) -> tuple[Subscription, Reaction]:
    """Return the subscription after this request, and what to do about it.

    Nonces are not compared: each request of this variant says what has changed, whichever response it
    answers. A name that is subscribed to again is answered again.
    """
    if not now.identified:
        if request.type_url == HEALTH_TYPE:
            return now, Ignore()
        if not request.node_id:
            return now, MissingNode()
        now = msgspec.structs.replace(now, identified=True)
    wanted = tuple(dict.fromkeys(request.subscribe))
    kept = (name for name in now.resource_names if name not in request.unsubscribe)
    names = tuple(dict.fromkeys((*kept, *wanted)))
    now = msgspec.structs.replace(now, resource_names=names, subscribed=bool(names))
    if wanted:
        initial = not request.response_nonce
        return now, Respond(resource_names=wanted, initial=initial, known=request.initial_versions)
    if request.error_message is not None:
        return now, Nack(code=request.error_code, message=request.error_message)
    if request.unsubscribe:
        return now, Unsubscribe(resource_names=request.unsubscribe)
    return now, Ack()
