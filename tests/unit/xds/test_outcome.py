"""How the end of a stream is classed."""

import grpc
import pytest

from pilot_agent.xds.outcome import Outcome

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (CODE.OK, "", "graceful"),
        (CODE.CANCELLED, "context canceled", "expected"),
        (CODE.DEADLINE_EXCEEDED, "", "expected"),
        (CODE.UNAVAILABLE, "transport is closing", "expected"),
        (CODE.UNAVAILABLE, "error reading from server: EOF", "expected"),
        (CODE.UNAVAILABLE, "client disconnected", "expected"),
        (CODE.UNAVAILABLE, "Socket closed", "expected"),
        (CODE.UNAVAILABLE, "failed to connect to all addresses", "unexpected"),
        (CODE.INTERNAL, "stream terminated by RST_STREAM with error code: NO_ERROR", "expected"),
        (CODE.INTERNAL, "Socket closed", "unexpected"),
        (CODE.UNAUTHENTICATED, "authentication failure", "unexpected"),
        (CODE.UNKNOWN, "", "unexpected"),
    ],
)
def test_the_class_decides_the_counter(code: grpc.StatusCode, details: str, kind: str) -> None:
    outcome = Outcome(code, details)
    assert outcome.kind == kind
    assert outcome.counter_type == ("error" if kind == "unexpected" else "cancelled")


def test_the_text_is_that_of_the_reference() -> None:
    text = "rpc error: code = Canceled desc = context canceled"
    assert str(Outcome(CODE.CANCELLED, "context canceled")) == text
    assert str(Outcome(CODE.DEADLINE_EXCEEDED, "x")) == "rpc error: code = DeadlineExceeded desc = x"


def test_a_connection_that_is_lost_before_any_response_is_news() -> None:
    assert Outcome(CODE.UNAVAILABLE, "Socket closed", was_served=False).kind == "unexpected"
    assert Outcome(CODE.UNAVAILABLE, "transport is closing", was_served=False).kind == "expected"
