"""SDS on the wire: requests read, responses written, by hand (see `pilot_agent.wire`).

Field numbers: envoy.service.discovery.v3 and envoy.extensions.transport_sockets.tls.v3.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from pilot_agent.environment import duration_s
from pilot_agent.wire import WireError, bytes_field, fields, message, text_field, varint_field

SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105
HEALTH_TYPE: Final = "type.googleapis.com/istio.v1.HealthInformation"
WIRE_BYTES: Final = 2
_PROVIDERS: Final = {"cryptomb": "CryptoMb", "qat": "Qat"}


class DiscoveryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the SDS server looks at in a request."""

    version_info: str = ""
    node_id: str = ""
    resource_names: tuple[str, ...] = ()
    type_url: str = ""
    response_nonce: str = ""
    error_code: int = 0
    error_message: str | None = None  # None: no error_detail, so no NACK


def decode_request(data: bytes) -> DiscoveryRequest:
    """Read a DiscoveryRequest.

    Raises:
        WireError: the bytes are none.
    """
    members: dict[str, Any] = {}  # Any: the keyword arguments of DiscoveryRequest
    names: list[str] = []
    for part in fields(data):
        if part.wire_type != WIRE_BYTES:
            continue
        match part.number:
            case 1:
                members["version_info"] = text_of(data, part.start, part.end)
            case 2:
                members["node_id"] = text_at(data, part.start, part.end, 1)
            case 3:
                names.append(text_of(data, part.start, part.end))
            case 4:
                members["type_url"] = text_of(data, part.start, part.end)
            case 5:
                members["response_nonce"] = text_of(data, part.start, part.end)
            case 6:
                members["error_message"] = text_at(data, part.start, part.end, 2)
                members["error_code"] = number_at(data, part.start, part.end, 1)
            case _:
                pass
    return DiscoveryRequest(resource_names=tuple(names), **members)


def encode_response(*, version_info: str, nonce: str, secrets: Iterable[bytes]) -> bytes:
    """Return a DiscoveryResponse with these encoded Secrets."""
    packed = (bytes_field(2, packed_any(SECRET_TYPE, secret)) for secret in secrets)
    return message(text_field(1, version_info), *packed, text_field(4, SECRET_TYPE), text_field(5, nonce))


def encode_pair(
    name: str, *, chain_pem: bytes, key_pem: bytes, provider: Mapping[str, Any] | None = None
) -> bytes:
    """Return a Secret with a key pair; `provider` is ProxyConfig's `privateKeyProvider`, if there is one."""
    key = bytes_field(2, _inline(key_pem)) if not provider else bytes_field(6, _provider(key_pem, provider))
    return message(text_field(1, name), bytes_field(2, bytes_field(1, _inline(chain_pem)) + key))


def encode_roots(name: str, *, roots_pem: bytes, crl_path: str = "") -> bytes:
    """Return a Secret with trust anchors, and the file of revoked certificates if there is one."""
    crl = bytes_field(7, text_field(1, crl_path)) if crl_path else b""
    return message(text_field(1, name), bytes_field(4, bytes_field(1, _inline(roots_pem)) + crl))


def _provider(key_pem: bytes, provider: Mapping[str, Any]) -> bytes:
    """Return Envoy's PrivateKeyProvider. The whole poll delay counts; the reference drops its seconds."""
    name = next(iter(provider))
    settings = provider[name] or {}
    nanos = round(duration_s(settings.get("pollDelay", "0s")) * 1e9)
    delay = message(varint_field(1, nanos // 10**9), varint_field(2, nanos % 10**9))
    config = message(bytes_field(1, _inline(key_pem)), bytes_field(2, delay))
    type_url = (
        f"type.googleapis.com/envoy.extensions.private_key_providers.{name}.v3alpha."
        f"{_PROVIDERS[name]}PrivateKeyMethodConfig"
    )
    fallback = varint_field(4, 1) if settings.get("fallback") else b""
    return message(text_field(1, name), bytes_field(3, packed_any(type_url, config)), fallback)


def _inline(data: bytes) -> bytes:
    return bytes_field(2, data)


def packed_any(type_url: str, value: bytes) -> bytes:
    """Return an Any."""
    return message(text_field(1, type_url), bytes_field(2, value))


def text_of(data: bytes, start: int, end: int) -> str:
    """Return a field's text.

    Raises:
        WireError: it is no UTF-8.
    """
    try:
        return data[start:end].decode()
    except UnicodeDecodeError as error:
        raise WireError(f"string at offset {start} is no UTF-8") from error


def text_at(data: bytes, start: int, end: int, number: int) -> str:
    """Return text field `number` of the message between `start` and `end`."""
    found = [
        part for part in fields(data, start, end) if part.number == number and part.wire_type == WIRE_BYTES
    ]
    return text_of(data, found[-1].start, found[-1].end) if found else ""


def number_at(data: bytes, start: int, end: int, number: int) -> int:
    """Return varint field `number` of the message between `start` and `end`."""
    found = [part.value for part in fields(data, start, end) if part.number == number and not part.wire_type]
    return found[-1] if found else 0
