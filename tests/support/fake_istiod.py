"""An istiod whose every word the test says: it records what it is asked and answers on command."""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHODS = {"sotw": f"/{ADS}/StreamAggregatedResources", "delta": f"/{ADS}/DeltaAggregatedResources"}
REQUEST_TYPES = {"sotw": discovery_pb2.DiscoveryRequest, "delta": discovery_pb2.DeltaDiscoveryRequest}
RESPONSE_TYPES = {"sotw": discovery_pb2.DiscoveryResponse, "delta": discovery_pb2.DeltaDiscoveryResponse}


@dataclass(frozen=True)
class _End:
    code: grpc.StatusCode
    details: str


@dataclass
class IstiodSideStream:
    """One stream that the agent opened."""

    variant: str
    metadata: dict[str, str]
    client_names: list[str]  # of its certificate; empty without one
    authority: str
    raw: "queue.SimpleQueue[bytes | None]" = field(default_factory=queue.SimpleQueue)
    outbox: "queue.SimpleQueue[bytes | _End]" = field(default_factory=queue.SimpleQueue)
    taken: int = 0  # responses that gRPC took from us

    def receive(self, within_s: float = 10.0) -> Any:
        """Return the next request, decoded; fails when the stream has ended or nothing comes."""
        body = self.raw.get(timeout=within_s)
        assert body is not None, "the stream has ended"
        return REQUEST_TYPES[self.variant].FromString(body)

    def is_quiet(self, for_s: float = 0.2) -> bool:
        """Return whether nothing comes for so long."""
        try:
            self.raw.get(timeout=for_s)
        except queue.Empty:
            return True
        return False

    def wait_for_end(self, within_s: float = 10.0) -> None:
        while self.raw.get(timeout=within_s) is not None:
            pass

    def send(self, response: Any) -> None:
        self.outbox.put(response if isinstance(response, bytes) else response.SerializeToString())

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        self.outbox.put(_End(code, details))


class FakeIstiod(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Listens on 127.0.0.1; start, kill and start again on the same port."""

    def __init__(self, serving_pair: tuple[bytes, bytes] | None = None, client_roots: bytes = b"") -> None:
        """`serving_pair` is key and chain for TLS; with `client_roots` a client certificate is asked for."""
        self._pair, self._client_roots = serving_pair, client_roots
        self._server: grpc.Server | None = None
        self.port = 0
        self.streams: queue.SimpleQueue[IstiodSideStream] = queue.SimpleQueue()
        self.opened = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "FakeIstiod":
        server = grpc.server(
            ThreadPoolExecutor(32),
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)),
        )
        server.add_generic_rpc_handlers((self,))
        address = f"127.0.0.1:{self.port}"
        if self._pair is None:
            self.port = server.add_insecure_port(address)
        else:
            roots = self._client_roots or None
            credentials = grpc.ssl_server_credentials([self._pair], roots, bool(roots))
            self.port = server.add_secure_port(address, credentials)
        server.start()
        self._server = server
        return self

    def kill(self) -> None:
        """Cut all connections and refuse new ones."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def next_stream(self, within_s: float = 10.0) -> IstiodSideStream:
        return self.streams.get(timeout=within_s)

    def service(self, handler_call_details: Any) -> Any:
        for variant, method in METHODS.items():
            if method == handler_call_details.method:
                return grpc.stream_stream_rpc_method_handler(partial(self._serve, variant))
        return None

    def _serve(
        self, variant: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        names = [name.decode() for name in context.peer_identities() or ()]
        authority = context._rpc_event.call_details.host.decode()  # type: ignore[attr-defined]
        stream = IstiodSideStream(variant, metadata, names, authority)
        self.opened += 1
        if not context.add_callback(lambda: stream.end(grpc.StatusCode.CANCELLED)):
            stream.end(grpc.StatusCode.CANCELLED)  # it is over already
        reader = ThreadPoolExecutor(1)
        reader.submit(_read, stream, requests)
        reader.shutdown(wait=False)
        self.streams.put(stream)
        while isinstance(item := stream.outbox.get(), bytes):
            yield item
            stream.taken += 1
        if item.code is not grpc.StatusCode.OK and context.is_active():
            context.abort(item.code, item.details)


def _read(stream: IstiodSideStream, requests: Iterator[bytes]) -> None:
    try:
        for body in requests:
            stream.raw.put(body)
    except grpc.RpcError:
        pass
    stream.raw.put(None)


class EnvoyClient:
    """Envoy's side of one ADS stream, on a Unix socket or an address."""

    def __init__(
        self,
        target: str,
        variant: str = "delta",
        generation: int | None = None,
        *,
        beside: "EnvoyClient | None" = None,
    ) -> None:
        """Open a stream, on a connection of its own or on that of the client `beside` which it is."""
        self.variant, self._beside = variant, beside
        self._channel: grpc.Channel = (
            beside._channel
            if beside
            else grpc.insecure_channel(
                target,
                options=(
                    ("grpc.max_receive_message_length", -1),
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.http2.bdp_probe", 0),
                    ("grpc.http2.lookahead_bytes", 65_535),
                ),
            )
        )
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        metadata = () if generation is None else (("x-envoy-generation", str(generation)),)
        call = self._channel.stream_stream(METHODS[variant], None, None)
        self.call = call(iter(self._outbox.get, None), metadata=metadata, wait_for_ready=True)
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reads = threading.Event()
        self._reads.set()
        self._reader = ThreadPoolExecutor(1)
        self._reader.submit(self._read)

    def pause(self) -> None:
        """Take no more responses from gRPC than the one that it was asked for already."""
        self._reads.clear()

    def go_on(self) -> None:
        self._reads.set()

    def send(self, request: Any) -> None:
        self._outbox.put(request if isinstance(request, bytes) else request.SerializeToString())

    def receive_bytes(self, within_s: float = 10.0) -> bytes:
        body = self._inbox.get(timeout=within_s)
        assert body is not None, f"the stream has ended: {self.call.code()} {self.call.details()}"
        return body

    def receive(self, within_s: float = 10.0) -> Any:
        return RESPONSE_TYPES[self.variant].FromString(self.receive_bytes(within_s))

    def wait_for_end(self, within_s: float = 10.0) -> tuple[grpc.StatusCode, str]:
        while self._inbox.get(timeout=within_s) is not None:
            pass
        return self.call.code(), self.call.details()

    def half_close(self) -> None:
        self._outbox.put(None)

    def close(self) -> None:
        self._reads.set()
        self.call.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        self._outbox.put(None)
        if self._beside is None:
            self._channel.close()
        self._reader.shutdown()

    def _read(self) -> None:
        try:
            for body in self.call:
                self._inbox.put(body)
                self._reads.wait()
        except grpc.RpcError:
            pass
        self._inbox.put(None)
