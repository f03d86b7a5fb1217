"""The few requests that the agent itself sends to istiod, in both variants.

They carry the type URL and what the case needs, never a node, a name or a version: istiod knows the
node from the first request of the stream, which is Envoy's.

Source: the reference's xDS proxy, requests the agent originates.
"""

from typing import Final, Literal

from pilot_agent.wire import bytes_field, message, text_field, varint_field

Variant = Literal["sotw", "delta"]

INTERNAL: Final = 13
"""google.rpc.Code.INTERNAL, the code of every error detail of ours."""


def subscription(variant: Variant, type_url: str) -> bytes:
    """Return the first request for an internal type; in delta istiod takes it as a wildcard."""
    return text_field(_TYPE_URL[variant], type_url)


def health(variant: Variant, type_url: str, error: str | None) -> bytes:
    """Return a health report; `error` is None for healthy, else the probe's text."""
    detail = b"" if error is None else _error_detail(variant, error)
    return message(text_field(_TYPE_URL[variant], type_url), detail)


def answer(variant: Variant, type_url: str, *, version_info: str, nonce: str, error: str | None) -> bytes:
    """Return the ACK (`error` None) or NACK of a response that the agent consumed.

    The version is that of the response, on a NACK too; delta has none.
    """
    if variant == "sotw":
        head = message(text_field(1, version_info), text_field(4, type_url), text_field(5, nonce))
    else:
        head = message(text_field(2, type_url), text_field(6, nonce))
    return head if error is None else head + _error_detail(variant, error)


_TYPE_URL: Final[dict[Variant, int]] = {"sotw": 4, "delta": 2}


def _error_detail(variant: Variant, text: str) -> bytes:
    status = message(varint_field(1, INTERNAL), text_field(2, text))
    return bytes_field(6 if variant == "sotw" else 7, status)
