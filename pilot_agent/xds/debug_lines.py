"""The debug lines about what passes between Envoy and istiod."""

from pilot_agent.log import get_logger
from pilot_agent.xds.envelope import DeltaResponse, SotwResponse, read_delta_request, read_sotw_request
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.type_urls import short_name

_log = get_logger("xdsproxy")


def request(variant: Variant, stream: str, body: bytes) -> None:
    """Tell of a request that istiod gets. Raises: WireError: it is malformed."""
    if variant == "sotw":
        asked = read_sotw_request(body)
        kind, nonce = short_name(asked.type_url), asked.response_nonce
        _log.debug("request", id=stream, type=kind, nonce=nonce, names=asked.spans.count(3))
        return
    delta = read_delta_request(body)
    _log.debug(
        "delta request",
        id=stream,
        type=short_name(delta.type_url),
        sub=len(delta.subscribe),
        unsub=len(delta.unsubscribe),
        nonce=delta.response_nonce,
        initial=delta.spans.count(5),
    )


def response(stream: str, seen: SotwResponse | DeltaResponse) -> None:
    """Tell of a response of istiod's."""
    removed = {"removes": len(seen.removed)} if isinstance(seen, DeltaResponse) else {}
    _log.debug(
        "upstream response",
        id=stream,
        type=short_name(seen.type_url),
        nonce=seen.nonce,
        resources=seen.resource_count,
        **removed,
    )
