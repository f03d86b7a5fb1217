"""What the two halves of the xDS path say to each other. Payloads are opaque.

One stream down is one stream up. `StreamId` is unique for the life of the agent: the incarnation
of DownstreamXdsActor that accepted the stream, and a number that it counted.

A stream of Envoy's outlives the connections to istiod that serve it: each of those is a *leg*, which
DownstreamXdsActor counts and begins with StreamOpened. With that message go the leg's own sockets, on
which requests and responses pass as bytes (`requestsChan`, unbounded; `responsesChan`, bound 1, whose
free slot is a byte on the way back); the first requests restore what Envoy has subscribed to. A lost
connection makes UpstreamXdsActor ask for the next leg (ReplayWanted); a lost UpstreamXdsActor makes
DownstreamXdsActor begin one for each stream that it holds. The record of subscriptions lives in
DownstreamXdsActor alone, as long as Envoy's stream does, so there is nothing to be found again and
nothing that two processes could remember differently.
"""

from typing import Literal

import msgspec

Variant = Literal["sotw", "delta"]


class StreamId(msgspec.Struct, frozen=True, order=True):
    """Names one stream of Envoy's, for ever."""

    incarnation: int
    number: int

    def __str__(self) -> str:
        return f"{self.incarnation}.{self.number}"

    @property
    def label(self) -> str:
        """Return the `id` of log lines: the plain number, as the reference has it, unless restarted."""
        return str(self.number) if self.incarnation == 1 else str(self)


class StreamOpened(msgspec.Struct, frozen=True, kw_only=True):
    """DownstreamXds → UpstreamXds: open a stream to istiod for Envoy's, instead of one that there is.

    Mirrors: a new `ProxyConnection`.
    """

    stream: StreamId
    variant: Variant
    generation: int  # metadata `x-envoy-generation`; -1 where Envoy sent none (custom bootstrap)
    leg: int = 1  # grows with each connection to istiod that this stream gets
    descriptors: tuple[int, ...] = ()  # what `pilot_agent.xds.pipes.UpstreamEnd` is made of


class StreamClosed(msgspec.Struct, frozen=True, kw_only=True):
    """DownstreamXds → UpstreamXds: Envoy's stream ended. Mirrors: `downstreamError`."""

    stream: StreamId
    reason: str


class ReplayWanted(msgspec.Struct, frozen=True, kw_only=True):
    """UpstreamXds → DownstreamXds: this leg has ended; begin the next. Reply: StreamOpened, Requests.

    Asked again after some seconds without a reply; ignored when a later leg was begun already.
    """

    stream: StreamId
    leg: int


class UpstreamClosed(msgspec.Struct, frozen=True, kw_only=True):
    """UpstreamXds → DownstreamXds: end Envoy's stream with this status. Mirrors: `upstreamError`."""

    stream: StreamId
    code: int  # a gRPC status code; 0 ends the stream with OK
    details: str


class ResumptionRefused(msgspec.Struct, frozen=True, kw_only=True):
    """UpstreamXds → DownstreamXds: istiod does not go on from where Envoy is; end Envoy's stream.

    Envoy then starts afresh. Mirrors: `upstreamError`.
    """

    stream: StreamId
    code: int  # istiod's gRPC status code
    details: str


class StreamsHeld(msgspec.Struct, frozen=True, kw_only=True):
    """DownstreamXds → UpstreamXds, after the latter was restarted: Envoy's open streams; drop all others.

    A StreamOpened for each of them follows. (When DownstreamXds is restarted itself, its streams are
    gone: UpstreamXds drops those of older incarnations at PeerRestarted.)
    """

    streams: tuple[StreamId, ...]


class ShowStreams(msgspec.Struct, frozen=True, kw_only=True):
    """Health → UpstreamXds: what can be told of the streams? For the status page. Reply: StreamsShown."""

    number: int  # repeated in the answer


class StreamsShown(msgspec.Struct, frozen=True, kw_only=True):
    """UpstreamXds → Health: each stream with its types, as of now."""

    number: int
    body: bytes  # JSON: a list of pilot_agent.xds.states.StreamShown


class NameTable(msgspec.Struct, frozen=True, kw_only=True):
    """UpstreamXds → Dns: istiod's name table (NDS), as its bytes. Mirrors: the NDS handler.

    Reply: NameTableTaken with the same number.
    """

    body: bytes
    number: int = 0  # unique for the life of the agent
