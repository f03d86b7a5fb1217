"""How the end of a stream is classed."""

import pytest

from pilot_agent.rpc import Code
from pilot_agent.xds.outcome import Outcome


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (Code.OK, "", "graceful"),
        (Code.CANCELLED, "context canceled", "expected"),
        (Code.DEADLINE_EXCEEDED, "", "expected"),
        (Code.UNAVAILABLE, "transport is closing", "expected"),
        (Code.UNAVAILABLE, "error reading from server: EOF", "expected"),
        (Code.UNAVAILABLE, "client disconnected", "expected"),
        (Code.UNAVAILABLE, "error reading from server: connection reset by peer", "unexpected"),
        (Code.UNAVAILABLE, 'connection error: desc = "error reading server preface: EOF"', "unexpected"),
        (Code.INTERNAL, "stream terminated by RST_STREAM with error code: NO_ERROR", "expected"),
        (Code.INTERNAL, "transport is closing", "unexpected"),
        (Code.UNAUTHENTICATED, "authentication failure", "unexpected"),
        (Code.UNKNOWN, "", "unexpected"),
    ],
)
def test_the_class_decides_the_counter(code: Code, details: str, kind: str) -> None:
    outcome = Outcome(code, details)
    assert outcome.kind == kind
    assert outcome.counter_type == ("error" if kind == "unexpected" else "cancelled")


def test_the_text_is_that_of_the_reference() -> None:
    text = "rpc error: code = Canceled desc = context canceled"
    assert str(Outcome(Code.CANCELLED, "context canceled")) == text
    assert str(Outcome(Code.DEADLINE_EXCEEDED, "x")) == "rpc error: code = DeadlineExceeded desc = x"


def test_what_istiod_says_forges_no_line_of_the_log() -> None:
    details = "no\n2026-11-23T00:00:00.000000Z\tinfo\tall is well\x1b[2J"
    expected = (
        r"rpc error: code = Unavailable desc = no\n2026-11-23T00:00:00.000000Z\tinfo\tall is well\x1b[2J"
    )
    assert str(Outcome(Code.UNAVAILABLE, details)) == expected
