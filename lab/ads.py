"""The gRPC side of xDS: one thread and one inbox for each stream, whose protocol is in `lab.stream`.

The same service answers ADS (both variants) and, for `lab.direct`, StreamSecrets.
"""

import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.json_format import MessageToDict

from lab.access import Access, headers_of
from lab.faults import Faults
from lab.observed import HealthSeen, Observed, RequestSeen, ResponseSent, StreamSeen
from lab.server import Handler, MethodHandler
from lab.snapshot import HEALTH, NodeInfo, World
from lab.stream import DeltaStream, Outgoing, Request, SotwStream, Stream
from lab.tokens import Identity, TokenError

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SDS_SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"

Variant = Literal["sotw", "delta"]


@dataclass(frozen=True, slots=True)
class _Push:
    """The world has changed."""


@dataclass(frozen=True, slots=True)
class _Raw:
    """Send these bytes, whatever they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class _End:
    """End the stream: with this status, or gracefully."""

    code: grpc.StatusCode | None = None
    text: str = ""


_Item: TypeAlias = Request | _Push | _Raw | _End


class AdsService:
    """Serves what `world` says at the moment; `push` makes all streams look again."""

    def __init__(self, *, access: Access, faults: Faults, observed: Observed) -> None:
        self._access, self._faults, self._observed = access, faults, observed
        self._lock = threading.Lock()
        self._sessions: set[_Session] = set()
        self._world: World | None = None
        self._version = ""

    def handlers(self) -> list[Handler]:
        sotw = self._method("sotw", discovery_pb2.DiscoveryRequest.FromString)
        delta = self._method("delta", discovery_pb2.DeltaDiscoveryRequest.FromString)
        ads = {"StreamAggregatedResources": sotw, "DeltaAggregatedResources": delta}
        sds = {"StreamSecrets": sotw, "DeltaSecrets": delta}
        return [
            grpc.method_handlers_generic_handler(ADS_SERVICE, ads),
            grpc.method_handlers_generic_handler(SDS_SERVICE, sds),
        ]

    def set_world(self, world: World, version: str) -> None:
        """Replace what is served and push the differences to every stream."""
        with self._lock:
            self._world, self._version = world, version
        self._tell_all(_Push())

    def send_raw(self, data: bytes) -> None:
        """Send bytes as one message on every stream, valid or not."""
        self._tell_all(_Raw(data))

    def end_all(self, code: grpc.StatusCode | None, text: str) -> None:
        """End every stream; None is a graceful end."""
        self._tell_all(_End(code, text))

    def current(self) -> tuple[World, str]:
        with self._lock:
            assert self._world is not None, "set_world comes before the server starts"
            return self._world, self._version

    def _tell_all(self, item: _Item) -> None:
        with self._lock:
            sessions = tuple(self._sessions)
        for session in sessions:
            session.inbox.put(item)

    def _method(self, variant: Variant, parse: Callable[[bytes], Request]) -> MethodHandler:
        def serve(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[bytes]:
            identity = self._admit(context)
            session = _Session(variant, self, self._faults, self._observed)
            with self._lock:
                self._sessions.add(session)
            try:
                yield from session.run(requests, context, identity)
            finally:
                with self._lock:
                    self._sessions.discard(session)

        return grpc.stream_stream_rpc_method_handler(serve, request_deserializer=parse)

    def _admit(self, context: grpc.ServicerContext) -> Identity | None:
        def refused(observed: Observed) -> None:
            observed.refused_streams += 1

        try:
            identity = self._access.identify(context)
        except TokenError as error:
            self._observed.note(refused)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        if self._faults.ads == "unavailable":
            self._observed.note(refused)
            context.abort(grpc.StatusCode.UNAVAILABLE, "discovery is down")
        return identity


class _Session:
    """One stream. Its own thread reads the inbox and writes; a second one feeds requests into the inbox."""

    _ids = iter(range(1, 1 << 62))

    def __init__(self, variant: Variant, service: AdsService, faults: Faults, observed: Observed) -> None:
        self.inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._variant, self._service, self._faults, self._observed = variant, service, faults, observed
        self._id = next(self._ids)
        self._stream: Stream = (SotwStream if variant == "sotw" else DeltaStream)(_nonce)
        self._node: NodeInfo | None = None

    def run(
        self, requests: Iterator[Request], context: grpc.ServicerContext, identity: Identity | None
    ) -> Iterator[bytes]:
        seen = StreamSeen(
            stream_id=self._id,
            variant=self._variant,
            peer=context.peer(),
            headers=headers_of(context),
            identity="" if identity is None else f"{identity.namespace}/{identity.service_account}",
        )
        self._observed.note(lambda observed: _note_stream(observed, seen))
        context.add_callback(lambda: self.inbox.put(_End()))
        threading.Thread(target=self._feed, args=(requests,), daemon=True, name="lab-ads-reader").start()
        try:
            yield from self._answers(context)
        finally:
            self._observed.note(lambda observed: observed.open_streams.discard(self._id))

    def _feed(self, requests: Iterator[Request]) -> None:
        try:
            for request in requests:
                self.inbox.put(request)
        except grpc.RpcError:
            pass  # the client is gone; add_callback tells the session too
        self.inbox.put(_End())

    def _answers(self, context: grpc.ServicerContext) -> Iterator[bytes]:
        while True:
            match self.inbox.get():
                case _End() as end:
                    if end.code is not None:
                        context.abort(end.code, end.text)
                    return
                case _Raw() as raw:
                    yield raw.data
                case _Push():
                    yield from self._noted(self._push())
                case request:
                    yield from self._noted(self._receive(request))

    def _push(self) -> list[Outgoing]:
        if self._node is None or self._faults.ads == "silent":
            return []
        world, version = self._service.current()
        return self._stream.push(world(self._node), version)

    def _receive(self, request: Request) -> list[Outgoing]:
        if request.HasField("node") and request.node.id:
            metadata = MessageToDict(request.node.metadata)
            self._node = NodeInfo(id=request.node.id, metadata=metadata)
        if request.type_url == HEALTH:
            self._health(request)
            return []
        if self._node is None or self._faults.ads == "silent":
            self._note_request(request, "unanswered")
            return []
        world, version = self._service.current()
        verdict, outgoing = self._stream.receive(request, world(self._node), version)
        self._note_request(request, verdict)
        return outgoing

    def _health(self, request: Request) -> None:
        """Record a verdict. Before the first ordinary request it is ignored, as istiod does."""
        if self._node is None:
            self._note_request(request, "early health")
            return
        self._note_request(request, "health")
        healthy = not request.HasField("error_detail")
        seen = HealthSeen(
            stream_id=self._id,
            node_id=self._node.id,
            healthy=healthy,
            message=request.error_detail.message,
        )
        self._observed.note(lambda observed: observed.health.append(seen))

    def _note_request(self, request: Request, verdict: str) -> None:
        is_delta = isinstance(request, discovery_pb2.DeltaDiscoveryRequest)
        seen = RequestSeen(
            stream_id=self._id,
            node_id=self._node.id if self._node else "",
            type_url=request.type_url,
            verdict=verdict,
            response_nonce=request.response_nonce,
            version_info="" if is_delta else request.version_info,
            subscribe=tuple(request.resource_names_subscribe if is_delta else request.resource_names),
            unsubscribe=tuple(request.resource_names_unsubscribe) if is_delta else (),
            initial_resource_versions=dict(request.initial_resource_versions) if is_delta else {},
            error_message=request.error_detail.message,
            has_node=request.HasField("node"),
        )

        def change(observed: Observed) -> None:
            observed.requests.append(seen)
            observed.counts[verdict, request.type_url] += 1

        self._observed.note(change)

    def _noted(self, outgoing: list[Outgoing]) -> Iterator[bytes]:
        for one in outgoing:
            self._note_sent(one)
            yield one.data

    def _note_sent(self, one: Outgoing) -> None:
        sent = ResponseSent(
            stream_id=self._id,
            type_url=one.type_url,
            nonce=one.nonce,
            version_info=one.version_info,
            names=one.names,
            size_bytes=len(one.data),
        )

        def change(observed: Observed) -> None:
            observed.responses.append(sent)
            observed.counts["sent", sent.type_url] += 1

        self._observed.note(change)


def _note_stream(observed: Observed, seen: StreamSeen) -> None:
    observed.streams.append(seen)
    observed.open_streams.add(seen.stream_id)


def _nonce(version: str) -> str:
    return f"{version.partition('/')[0]}/{uuid.uuid4()}"
