"""How a stream ended, sorted as the reference sorts it for its log level and its counters."""

from dataclasses import dataclass
from typing import Final, Literal

import grpc

_UNAVAILABLE_TEXTS: Final = (
    "client disconnected",
    "error reading from server: EOF",
    "transport is closing",
    # the same events in the words of this gRPC library
    "Socket closed",
    "GOAWAY received",
    "Connection reset by peer",
    "Broken pipe",
    "Transport closed",
    "Cancelling all calls",
)
_ANY_TEXTS: Final = (
    "stream terminated by RST_STREAM with error code: NO_ERROR",
    "received prior goaway: code: NO_ERROR",
    "RST_STREAM with error code 0",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status that ended a stream."""

    code: grpc.StatusCode
    details: str

    @property
    def kind(self) -> Literal["graceful", "expected", "unexpected"]:
        """Return the class; the first two are no news, the third is a warning.

        Source: the reference's xDS proxy, error classification.
        """
        if self.code is grpc.StatusCode.OK:
            return "graceful"
        if self.code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
            return "expected"
        if any(text in self.details for text in _ANY_TEXTS):
            return "expected"
        if self.code is grpc.StatusCode.UNAVAILABLE and any(t in self.details for t in _UNAVAILABLE_TEXTS):
            return "expected"
        return "unexpected"

    @property
    def counter_type(self) -> Literal["cancelled", "error"]:
        """Return the `type` label of the termination counters."""
        return "error" if self.kind == "unexpected" else "cancelled"

    def __str__(self) -> str:
        return f"rpc error: code = {_GO_NAMES.get(self.code, self.code.name)} desc = {self.details}"


_GO_NAMES: Final = {
    code: "Canceled" if code is grpc.StatusCode.CANCELLED else code.name.title().replace("_", "")
    for code in grpc.StatusCode
}
