"""What the two halves of the xDS path say to each other. Payloads are opaque.

One stream down is one stream up. `StreamId` is unique for the life of the agent: the incarnation
of DownstreamXdsActor that accepted the stream, and a number that it counted.
"""

from dataclasses import dataclass
from typing import Literal

Variant = Literal["sotw", "delta"]


@dataclass(frozen=True, slots=True, order=True)
class StreamId:
    """Names one stream of Envoy's, for ever."""

    incarnation: int
    number: int

    def __str__(self) -> str:
        return f"{self.incarnation}.{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """DownstreamXds → UpstreamXds: Envoy opened an ADS stream. Mirrors: a new `ProxyConnection`."""

    stream: StreamId
    variant: Variant
    generation: int  # metadata `x-envoy-generation`; -1 where Envoy sent none (custom bootstrap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """DownstreamXds → UpstreamXds: one request of Envoy's, as its bytes.

    Mirrors: `requestsChan`, unbounded.
    """

    stream: StreamId
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed:
    """DownstreamXds → UpstreamXds: Envoy's stream ended. Mirrors: `downstreamError`."""

    stream: StreamId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseTaken:
    """DownstreamXds → UpstreamXds: Envoy's transport took the response; the next may come.

    Mirrors: the free slot of `responsesChan`.
    """

    stream: StreamId


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """UpstreamXds → DownstreamXds: one response of istiod's, as its bytes; one in flight a stream.

    Mirrors: `responsesChan`, bound 1.
    """

    stream: StreamId
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamClosed:
    """UpstreamXds → DownstreamXds: end Envoy's stream with this status. Mirrors: `upstreamError`."""

    stream: StreamId
    code: int  # a gRPC status code; 0 ends the stream with OK
    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsHeld:
    """Either half → the other, after PeerRestarted: the streams that I hold; drop what I do not.

    From DownstreamXds it lists the streams of Envoy that are open. From UpstreamXds it lists those
    that it knows from its notebook; what Envoy holds and upstream does not know is opened anew.
    """

    streams: tuple[StreamId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTable:
    """UpstreamXds → Dns: istiod's name table (NDS), as its bytes. Mirrors: the NDS handler."""

    body: bytes
