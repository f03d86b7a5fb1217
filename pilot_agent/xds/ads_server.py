"""The gRPC server that Envoy's ADS streams and reflection clients come to."""

import re
import threading
from collections.abc import Iterator
from typing import Final, Protocol

from pilot_agent.log import get_logger
from pilot_agent.rpc import Call, CallEnded, Code, Requests, Server, iterating
from pilot_agent.rpc.call import Method, Resumption
from pilot_agent.wire import WireError
from pilot_agent.xds import reflection
from pilot_agent.xds.envoy_stream import EnvoyStream, KeptStream, read_kept
from pilot_agent.xds.methods import METHODS
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.outcome import Outcome
from pilot_agent.xds.requests import Variant

GENERATION_KEY: Final = "x-envoy-generation"
NO_GENERATION: Final = -1
_GENERATION: Final = re.compile(r"[0-9]{1,9}")
_log = get_logger("xdsproxy")


class Host(Protocol):
    """Who owns the streams."""

    def accept(self, variant: Variant, generation: int, kept: KeptStream | None = None) -> EnvoyStream:
        """Take a stream in, one that a predecessor `kept` too, and begin a leg.

        Raises:
            ValueError: what was kept cannot be understood.
        """

    def closed(self, stream: EnvoyStream, outcome: Outcome) -> None:
        """Forget a stream; called once for each."""

    def received(self, size_bytes: int) -> None:
        """Note the size of a request."""

    def reflect(self, request: bytes) -> bytes:
        """Return the encoded `message_response` for a question about descriptors; may take a while."""


def make_server(options: XdsOptions, host: Host) -> Server:
    """Return the server, neither bound nor started. The caller ends it."""
    reflect = iterating(lambda requests: _reflected(requests, host))
    methods = {f"/{service}/ServerReflectionInfo": reflect for service in reflection.REFLECTION_SERVICES}
    return Server(
        methods | {path: _method(variant, host) for variant, path in METHODS.items()},
        name="ads",
        calls_limit=options.streams_limit,
        message_limit_bytes=options.receive_limit_bytes,
        keepalive_interval_s=options.keepalive_interval_s,
        keepalive_timeout_s=options.keepalive_timeout_s,
        resumptions={path: _resumption(host) for path in METHODS.values()},
    )


def _method(variant: Variant, host: Host) -> Method:
    return lambda call: _AdsCall(call, host, host.accept(variant, _generation(call)))


def _resumption(host: Host) -> Resumption:
    def resume(call: Call, state: bytes) -> _AdsCall:
        kept = read_kept(state)
        return _AdsCall(call, host, host.accept(kept.variant, kept.generation, kept))

    return resume


class _AdsCall:
    """One ADS stream: requests pass on the connection's thread, responses on one of the stream's own."""

    def __init__(self, call: Call, host: Host, stream: EnvoyStream) -> None:
        kind = "delta xds" if stream.variant == "delta" else "xds"
        _log.debug(f"accepted {kind} connection from envoy, forwarding to upstream")
        self._call, self._host, self._stream = call, host, stream
        self._is_closed, self._lock = False, threading.Lock()
        try:
            threading.Thread(target=self._respond, name=f"ads-{self._stream.name}", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._close(Outcome(Code.UNAVAILABLE, str(error)))
            raise

    def message(self, body: bytes) -> None:
        self._host.received(len(body))
        try:
            self._stream.request(body)
        except WireError as error:
            self._close(Outcome(Code.INTERNAL, f"grpc: error unmarshalling request: {error}"))

    def half_closed(self) -> None:
        self._close(Outcome(Code.OK, "end of stream"))

    def cancelled(self) -> None:
        self._close(Outcome(Code.CANCELLED, "context canceled"))

    def keep(self) -> bytes | None:
        return self._stream.keep()

    def _respond(self) -> None:
        for body in self._stream.responses(self._call.turn):
            if not self._call.send(body):
                break
            del body  # else it would be held while the thread waits for the next
        end = self._stream.ended
        if end is not None:
            with self._call.turn:
                self._call.finish(Code(end.code), end.details)
            self._close(Outcome(Code.OK, "end of stream"))

    def _close(self, outcome: Outcome) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._stream.end(outcome.code, outcome.details)
        self._host.closed(self._stream, outcome)


def _reflected(requests: Requests, host: Host) -> Iterator[bytes]:
    for request in requests:
        try:
            question = reflection.read_question(request)
        except WireError as error:
            raise CallEnded(Code.INVALID_ARGUMENT, str(error)) from error
        yield reflection.response(question, request, _payload(question, request, host))


def _payload(question: reflection.Question, request: bytes, host: Host) -> bytes:
    if question.kind == "list_services":
        return reflection.services()
    if question.kind == "other":
        return reflection.error(reflection.UNIMPLEMENTED, "extensions are not served")
    return host.reflect(request)


def _generation(call: Call) -> int:
    """Return which of the agent's Envoys calls, NO_GENERATION if it does not say."""
    text = call.headers.get(GENERATION_KEY, "")
    return int(text) if _GENERATION.fullmatch(text) else NO_GENERATION
