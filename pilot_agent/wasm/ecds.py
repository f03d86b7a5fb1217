"""Is a Wasm module to be fetched for something in an ECDS response? A scan without protobuf.

It looks at type URLs alone and errs on the side of yes: what is malformed, or a Wasm filter whose code
is local, goes to the worker, which decides with protobuf's own classes.
"""

from typing import Final

from pilot_agent.wire import WireError
from pilot_agent.xds.envelope import DeltaResponse, SotwResponse, Spans
from pilot_agent.xds.type_urls import ECDS

HTTP_WASM: Final = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
NETWORK_WASM: Final = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm"
TYPED_STRUCT: Final = "type.googleapis.com/udpa.type.v1.TypedStruct"

_LOOKED_INTO: Final = (HTTP_WASM, NETWORK_WASM, TYPED_STRUCT)


def needs_rewriting(response: SotwResponse | DeltaResponse) -> bool:
    """Return whether a worker has to look at this ECDS response before Envoy gets it."""
    try:
        return any(_needs(response, start, end) for start, end in response.spans.bounds(2))
    except WireError:
        return True


def _needs(response: SotwResponse | DeltaResponse, start: int, end: int) -> bool:
    """Raises: WireError: the resource is malformed."""
    data = response.spans.data
    resource = Spans(data, start, end)
    if isinstance(response, DeltaResponse):
        content = _only(resource, 2)
        if content is None:
            return True
        resource = content
    config = _only(resource, 2)
    if resource.text(1) != ECDS or config is None:
        return True
    typed = _only(config, 2)
    return typed is None or typed.text(1) in _LOOKED_INTO


def _only(message: Spans, number: int) -> Spans | None:
    """Return the one message in a field; None for none, and for several, which protobuf would merge."""
    bounds = list(message.bounds(number))
    return Spans(message.data, *bounds[0]) if len(bounds) == 1 else None
