"""Records behave as the NamedTuples that the type checker takes them for."""

from collections.abc import Callable

import pytest

from pilot_agent.record import Record


class Answer(Record):
    status: int
    body: bytes = b""


def test_fields_are_taken_by_position_by_name_and_from_the_class() -> None:
    assert (Answer(200, b"x").status, Answer(200).body, Answer(body=b"x", status=404).status) == (
        200,
        b"",
        404,
    )
    assert Answer._fields == ("status", "body")
    assert Answer(200)._asdict() == {"status": 200, "body": b""}


def test_they_are_tuples() -> None:
    assert Answer(200) == Answer(status=200, body=b"")
    assert Answer(200) != Answer(200, b"x")
    assert len({Answer(200), Answer(200), Answer(201)}) == 2
    status, body = Answer(200, b"x")
    assert (status, body) == (200, b"x")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Answer, id="one is missing"),
        pytest.param(lambda: Answer(1, b"", 2), id="one too many"),  # type: ignore[call-arg]
        pytest.param(lambda: Answer(1, status=2), id="one twice"),  # type: ignore[misc]
        pytest.param(lambda: Answer(1, header=2), id="one unknown"),  # type: ignore[call-arg]
    ],
)
def test_other_fields_are_refused(make: Callable[[], Answer]) -> None:
    with pytest.raises(TypeError, match="Answer takes"):
        make()
