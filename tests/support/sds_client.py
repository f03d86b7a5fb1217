"""A StreamSecrets client as Envoy is one: requests when the test says so, responses with a deadline."""

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.rpc.status_pb2 import Status

METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/"
DEADLINE_S = 10.0


class SdsStream:
    """One stream; `names`, `ack` and `nack` send, `response` and `status` wait."""

    def __init__(self, channel: grpc.Channel, method: str = "StreamSecrets") -> None:
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._in: queue.Queue[DiscoveryResponse | None] = queue.Queue()
        call = channel.stream_stream(METHOD + method, lambda data: data, DiscoveryResponse.FromString)
        self._call: Any = call(iter(self._out.get, None), wait_for_ready=True)
        self._last = DiscoveryResponse()
        threading.Thread(target=self._read, args=(self._call,), daemon=True).start()

    def _read(self, responses: Iterator[DiscoveryResponse]) -> None:
        try:
            for response in responses:
                self._in.put(response)
        except grpc.RpcError:
            pass
        self._in.put(None)

    def send(self, request: DiscoveryRequest | bytes) -> None:
        self._out.put(request if isinstance(request, bytes) else request.SerializeToString())

    def names(self, *names: str, nonce: str = "", node: str = "sidecar~1~a.b~c") -> None:
        self.send(DiscoveryRequest(node=Node(id=node), resource_names=names, response_nonce=nonce))

    def ack(self, *names: str) -> None:
        last = self._last
        self.send(
            DiscoveryRequest(resource_names=names, version_info=last.version_info, response_nonce=last.nonce)
        )

    def nack(self, *names: str, message: str) -> None:
        detail = Status(code=13, message=message)
        self.send(
            DiscoveryRequest(resource_names=names, response_nonce=self._last.nonce, error_detail=detail)
        )

    def response(self, timeout_s: float = DEADLINE_S) -> DiscoveryResponse:
        found = self._in.get(timeout=timeout_s)
        assert found is not None, f"the stream ended: {self._call.code()} {self._call.details()}"
        self._last = found
        return found

    def secrets(self, timeout_s: float = DEADLINE_S) -> dict[str, Secret]:
        """Return the next response's secrets by name."""
        found = {}
        for packed in self.response(timeout_s).resources:
            secret = Secret()
            assert packed.Unpack(secret)
            found[secret.name] = secret
        return found

    def nothing_waits(self) -> bool:
        return self._in.empty()

    def status(self, timeout_s: float = DEADLINE_S) -> tuple[grpc.StatusCode, str]:
        """Wait for the end and return it."""
        assert self._in.get(timeout=timeout_s) is None
        return self._call.code(), self._call.details()

    def half_close(self) -> None:
        self._out.put(None)

    def cancel(self) -> None:
        self._call.cancel()
        self._out.put(None)


class SdsClient:
    """A connection to the socket at `path`."""

    def __init__(self, path: str) -> None:
        self.channel = grpc.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._streams: list[SdsStream] = []

    def stream(self, method: str = "StreamSecrets") -> SdsStream:
        self._streams.append(SdsStream(self.channel, method))
        return self._streams[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.cancel()
        self.channel.close()
