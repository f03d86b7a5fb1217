"""DownstreamXdsActor: the ADS server on the agent's own socket, to which Envoy connects."""

import itertools
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from actors.messages.control import LeaveEstate, PeerRestarted
from actors.messages.xds import (
    ReplayWanted,
    ResumptionRefused,
    StreamClosed,
    StreamId,
    StreamOpened,
    StreamsHeld,
    UpstreamClosed,
)
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context, WorkerFinished
from actors.runtime.roles import Role
from pilot_agent.grpc_bootstrap import GrpcBootstrapError, GrpcBootstrapOptions
from pilot_agent.log import get_logger
from pilot_agent.sockets import SocketError
from pilot_agent.xds import reflection
from pilot_agent.xds.ads_server import make_server
from pilot_agent.xds.envoy_stream import EnvoyStream, KeptStream
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.outcome import Outcome
from pilot_agent.xds.requests import Variant

if TYPE_CHECKING:
    from pilot_agent.rpc import Server

REFLECT_WORKER: Final = "reflect"
_REFLECT_TIMEOUT_S: Final = 10.0
_LISTEN_AGAIN_S: Final = 1.0
_OVERLAP: Final = "registered overlapping stream; closing previous"
_log = get_logger("xdsproxy")


class _ReflectAsked(msgspec.Struct, frozen=True):
    """A call's thread → the actor: have this question about descriptors answered."""

    request: bytes
    reply: queue.SimpleQueue[bytes]


class _ListenAgain(msgspec.Struct, frozen=True, kw_only=True):
    """To myself: try once more to bind the socket."""


class DownstreamXdsActor(RuntimeActor):
    """Serves Envoy's ADS streams and holds, for each, what Envoy has subscribed to.

    Bytes pass beside the mailbox and the channels: the server's own threads write and read the sockets of the
    stream's leg.

    Crash policy: the listening socket goes on to the successor, so nobody is refused meanwhile; nothing
    else is kept. Envoy connects again by itself and repeats its subscriptions. A planned successor goes on
    with its connections, streams and subscriptions, on new legs.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options = context.settings(XdsOptions)
        self._streams = Streams(context, ask=self._reflect)
        self._server: Server | None = None
        self._asked: dict[int, queue.SimpleQueue[bytes]] = {}
        context.on_channel(ReplayWanted, self._streams.on_replay_wanted)
        context.on_channel(ResumptionRefused, self._streams.on_refused)
        context.on_channel(UpstreamClosed, self._streams.on_upstream_closed)

    def on_start(self) -> None:
        self._listen(self.context.handed_down)

    def _listen(self, inherited: tuple[int, ...]) -> None:
        self._server = make_server(self._options, self._streams)
        self._server.when_made_again(self.context.hand_down)
        try:
            self._server.listen(self._options.socket_path, inherited)
        except SocketError as error:
            self._server = None
            if self.context.incarnation == 1:
                self.context.fatal(f"failed to start xds proxy: {error}")
            else:  # Envoy serves with what it has, and would end with the agent
                _log.error(f"{error}; again in {_LISTEN_AGAIN_S:g} s")
                self.context.after(_LISTEN_AGAIN_S, _ListenAgain())
            return
        body, descriptors = self.context.estate
        if inherited and body and self._server.resume(body, descriptors):
            _log.debug("connections of envoy taken over")
        self._server.start()
        self.context.hand_down(self._server.heirlooms())
        if self.context.incarnation == 1:
            try:
                self.context.settings(GrpcBootstrapOptions).write()
            except GrpcBootstrapError as error:
                self.context.fatal(str(error))
                return
        self.context.ready()

    def on_message(self, message: object) -> object:
        match message:
            case PeerRestarted(role=Role.UPSTREAM_XDS):
                self._streams.begin_legs()
            case _ListenAgain():
                self._listen(())
            case _ReflectAsked():
                number = self.context.run_worker(
                    REFLECT_WORKER, message.request, timeout_s=_REFLECT_TIMEOUT_S
                )
                self._asked[number] = message.reply
            case WorkerFinished():
                self._answer(message)
            case LeaveEstate(patience_s=patience_s):
                server = self._server
                body, descriptors = server.keep(patience_s) if server is not None else (b"", [])
                self.context.leave_estate(body, descriptors)
            case PeerRestarted():
                pass
            case _:
                _log.error(f"unknown message {type(message).__name__} skipped")
        return None

    def quit(self, deadline_s: float) -> None:  # noqa: ARG002  # nothing is waited for
        if self._server is not None:
            self._server.quit()

    def _reflect(self, request: bytes) -> bytes:
        """Return the encoded answer; called on a call's thread, which waits."""
        reply: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.context.tell_self(_ReflectAsked(request, reply))
        try:
            return reply.get(timeout=_REFLECT_TIMEOUT_S + 1.0)
        except queue.Empty:
            return reflection.error(reflection.UNAVAILABLE, "descriptors could not be looked up in time")

    def _answer(self, finished: WorkerFinished) -> None:
        reply = self._asked.pop(finished.worker_id, None)
        if reply is None:
            return
        if finished.result is None:
            _log.warn(f"descriptors could not be looked up: {finished.error}")
        reply.put(
            reflection.error(reflection.UNAVAILABLE, finished.error)
            if finished.result is None
            else finished.result
        )


class Streams:
    """Envoy's open streams, one for each of the agent's Envoys. Thread-safe."""

    def __init__(self, context: Context, *, ask: Callable[[bytes], bytes]) -> None:
        """`ask` answers a reflection question about descriptors, on the thread that asks."""
        self._context, self._ask = context, ask
        self._lock = threading.Lock()
        self._open: dict[StreamId, EnvoyStream] = {}
        self._ids: dict[EnvoyStream, StreamId] = {}
        self._current: dict[int, EnvoyStream] = {}  # generation → its newest stream
        self._numbers = itertools.count(1)
        self._largest_bytes = 0

    def accept(self, variant: Variant, generation: int, kept: KeptStream | None = None) -> EnvoyStream:
        """Take a stream in; an older one of the same Envoy ends with OK, as in the reference."""
        identity = StreamId(self._context.incarnation, next(self._numbers))
        port = _Port(self._context, identity, variant, generation)
        stream = EnvoyStream(variant=variant, generation=generation, upstream=port, name=identity.label)
        if kept is not None:
            stream.resume(kept)
        with self._lock:
            stream.begin_leg()  # first, since it fails without descriptors
            previous = self._current.get(generation)
            self._current[generation] = stream
            self._open[identity], self._ids[stream] = stream, identity
        if previous is not None:
            _log.warn(_OVERLAP, id=previous.name)
            previous.end(0, "")
        return stream

    def closed(self, stream: EnvoyStream, outcome: Outcome) -> None:
        with self._lock:
            identity = self._ids.pop(stream)
            del self._open[identity]
            if self._current.get(stream.generation) is stream:
                del self._current[stream.generation]
            self._context.send(Role.UPSTREAM_XDS, StreamClosed(stream=identity, reason=str(outcome)))
        self._context.count("envoy_connection_terminations", type=outcome.counter_type)
        if outcome.kind == "unexpected":
            _log.warn(f"downstream terminated with unexpected error {outcome}", id=stream.name)
        else:
            _log.debug(f"downstream terminated with status {outcome}", id=stream.name)

    def received(self, size_bytes: int) -> None:
        if size_bytes > self._largest_bytes:
            self._largest_bytes = size_bytes
            self._context.gauge("pilot_xds_recv_max", size_bytes)

    def reflect(self, request: bytes) -> bytes:
        return self._ask(request)

    def begin_legs(self) -> None:
        """Have a new upstream process open streams to istiod for all of Envoy's."""
        with self._lock:
            self._context.send(Role.UPSTREAM_XDS, StreamsHeld(streams=tuple(self._open)))
            for stream in self._open.values():
                stream.begin_leg()

    def on_replay_wanted(self, _: Role, message: ReplayWanted) -> None:
        with self._lock:
            stream = self._open.get(message.stream)
            if stream is None:
                return
            try:
                stream.begin_leg(unless_after=message.leg)
            except OSError as error:  # it is asked for again
                _log.warn(f"upstream stream not begun: {error}", id=stream.name)

    def on_refused(self, _: Role, message: ResumptionRefused) -> None:
        stream = self._find(message.stream)
        if stream is not None:
            stream.end(message.code, message.details)

    def on_upstream_closed(self, _: Role, message: UpstreamClosed) -> None:
        stream = self._find(message.stream)
        if stream is not None:
            stream.end(message.code, message.details)

    def _find(self, identity: StreamId) -> EnvoyStream | None:
        with self._lock:  # `accept` may be about to note it
            return self._open.get(identity)


class _Port:
    """Sends one stream's events to UpstreamXdsActor."""

    def __init__(self, context: Context, identity: StreamId, variant: Variant, generation: int) -> None:
        self._send, self._identity = context.send, identity
        self._variant: Variant = variant
        self._generation = generation

    def open(self, leg: int, descriptors: tuple[int, int]) -> None:
        opened = StreamOpened(
            stream=self._identity,
            variant=self._variant,
            generation=self._generation,
            leg=leg,
            descriptors=descriptors,
        )
        self._send(Role.UPSTREAM_XDS, opened)
