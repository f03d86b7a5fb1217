"""How a stream ended, sorted as the reference sorts it for its log level and its counters."""

from typing import Final, Literal

import msgspec

from pilot_agent.gotext import quote
from pilot_agent.rpc import Code

_UNAVAILABLE_TEXTS: Final = (
    "client disconnected",
    "error reading from server: EOF",
    "transport is closing",
)
_ANY_TEXTS: Final = (
    "stream terminated by RST_STREAM with error code: NO_ERROR",
    "received prior goaway: code: NO_ERROR",
)


_REFUSALS: Final = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.NOT_FOUND,
        Code.ABORTED,
        Code.DATA_LOSS,
        Code.UNIMPLEMENTED,
    }
)


class Outcome(msgspec.Struct, frozen=True):
    """The status that ended a stream."""

    code: Code
    details: str

    @property
    def kind(self) -> Literal["graceful", "expected", "unexpected"]:
        """Return the class; the first two are no news, the third is a warning.

        Source: the reference's xDS proxy, error classification; the texts are those of Go's gRPC.
        """
        if self.code is Code.OK:
            return "graceful"
        if self.code in (Code.CANCELLED, Code.DEADLINE_EXCEEDED):
            return "expected"
        if any(text in self.details for text in _ANY_TEXTS):
            return "expected"
        if self.code is Code.UNAVAILABLE and any(text in self.details for text in _UNAVAILABLE_TEXTS):
            return "expected"
        return "unexpected"

    @property
    def refuses_to_resume(self) -> bool:
        """Return whether the same requests again would be refused again."""
        return self.code in _REFUSALS

    @property
    def counter_type(self) -> Literal["cancelled", "error"]:
        """Return the `type` label of the termination counters."""
        return "error" if self.kind == "unexpected" else "cancelled"

    def __str__(self) -> str:
        return f"rpc error: code = {self.code.go_name} desc = {quote(self.details, mark='')}"
