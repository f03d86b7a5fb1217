"""The table of traps names tests that are there, one at least for each."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
ROWS = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (REPOSITORY / "docs" / "TRAPS.md").read_text(), re.MULTILINE)


def test_there_are_twenty() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 21))


@pytest.mark.parametrize(("number", "tests"), ROWS)
def test_each_has_a_test(number: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    assert named or "every pod" in tests.lower()
    for file, function in named:
        assert f"def {function}(" in (REPOSITORY / file).read_text(), f"{file}::{function}"
