"""The gRPC server that Envoy's ADS streams and reflection clients come to.

Each stream holds one thread of the pool, which sends, and one of its own, which reads. The pool is
larger than the number of calls that are let in, so that a call above the limit is refused with
RESOURCE_EXHAUSTED instead of waiting in silence.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol

import grpc

from pilot_agent.log import get_logger
from pilot_agent.wire import WireError
from pilot_agent.xds import reflection
from pilot_agent.xds.dialer import METHODS
from pilot_agent.xds.envoy_stream import EnvoyStream, Outgoing
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.outcome import Outcome
from pilot_agent.xds.requests import Variant

GENERATION_KEY: Final = "x-envoy-generation"
NO_GENERATION: Final = -1
_log = get_logger("xdsproxy")


class Host(Protocol):
    """Who owns the streams."""

    def accept(self, variant: Variant, generation: int) -> EnvoyStream:
        """Take a new stream in and begin its first leg."""

    def closed(self, stream: EnvoyStream, outcome: Outcome) -> None:
        """Forget a stream; called once for each."""

    def received(self, size_bytes: int) -> None:
        """Note the size of a request."""

    def reflect(self, request: bytes) -> bytes:
        """Return the encoded `message_response` for a question about descriptors; may take a while."""


def make_server(options: XdsOptions, host: Host) -> grpc.Server:
    """Return the server, neither bound nor started. The caller ends it."""
    interval_ms, limit = int(options.keepalive_interval_s * 1000), options.streams_limit
    server = grpc.server(
        ThreadPoolExecutor(max_workers=limit + 4, thread_name_prefix="ads"),
        maximum_concurrent_rpcs=limit,
        options=(
            ("grpc.max_receive_message_length", options.receive_limit_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", interval_ms),
            ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", interval_ms // 2),
        ),
    )
    server.add_generic_rpc_handlers((_Handlers(host),))
    return server


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Finds the handler of a method; requests and responses are bytes."""

    def __init__(self, host: Host) -> None:
        self._host = host
        reflect = grpc.stream_stream_rpc_method_handler(self._reflect)
        self._methods = {
            f"/{service}/ServerReflectionInfo": reflect for service in reflection.REFLECTION_SERVICES
        } | {
            method: grpc.stream_stream_rpc_method_handler(
                partial(self._stream, variant), response_serializer=Outgoing.take
            )
            for variant, method in METHODS.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # Any: grpc's handler type
        return self._methods.get(handler_call_details.method)

    def _stream(
        self, variant: Variant, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[Outgoing]:
        kind = "delta xds" if variant == "delta" else "xds"
        _log.debug(f"accepted {kind} connection from envoy, forwarding to upstream")
        stream = self._host.accept(variant, _generation(context))
        threading.Thread(
            target=self._read, args=(stream, requests), name=f"ads-read-{stream.name}", daemon=True
        ).start()
        yield from stream.responses()
        if stream.ended is not None and stream.ended.code and context.is_active():
            context.abort(_CODES.get(stream.ended.code, grpc.StatusCode.UNKNOWN), stream.ended.details)

    def _read(self, stream: EnvoyStream, requests: Iterator[bytes]) -> None:
        """Pass Envoy's requests on until it half-closes or its connection is lost."""
        outcome = Outcome(grpc.StatusCode.OK, "end of stream")
        try:
            for body in requests:
                self._host.received(len(body))
                stream.request(body)
        except WireError as error:
            outcome = Outcome(grpc.StatusCode.INTERNAL, f"grpc: error unmarshalling request: {error}")
        except grpc.RpcError:
            outcome = Outcome(grpc.StatusCode.CANCELLED, "context canceled")
        stream.end(outcome.code.value[0], outcome.details)
        self._host.closed(stream, outcome)

    def _reflect(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            try:
                question = reflection.read_question(request)
            except WireError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            yield reflection.response(question, request, self._payload(question, request))

    def _payload(self, question: reflection.Question, request: bytes) -> bytes:
        if question.kind == "list_services":
            return reflection.services()
        if question.kind == "other":
            return reflection.error(reflection.UNIMPLEMENTED, "extensions are not served")
        return self._host.reflect(request)


def _generation(context: grpc.ServicerContext) -> int:
    """Return which of the agent's Envoys calls, NO_GENERATION if it does not say."""
    for key, value in context.invocation_metadata():
        if key == GENERATION_KEY:
            text = value if isinstance(value, str) else value.decode(errors="replace")
            return int(text) if text.isdecimal() else NO_GENERATION
    return NO_GENERATION


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
