"""Variables are read by the reference's rules; a wrong one gives a warning and the default."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.environment import Environment


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, True) for text in ("1", "t", "T", "TRUE", "true", "True")]
    + [(text, False) for text in ("0", "f", "F", "FALSE", "false", "False")],
)
def test_the_twelve_spellings_of_a_bool(text: str, value: bool) -> None:
    environment = Environment({"X": text})
    assert environment.boolean("X", not value) is value
    assert environment.optional_boolean("X") is value
    assert environment.warnings == []


@pytest.mark.parametrize("text", ["", "yes", "tRUE", " 1", "2"])
def test_anything_else_even_empty_is_a_warning_and_the_default(text: str) -> None:
    environment = Environment({"X": text})
    why = f'strconv.ParseBool: parsing "{text}": invalid syntax'
    assert environment.boolean("X", True) is True
    assert environment.warnings == [
        f"Invalid environment variable value `{text}` for X, using default true: {why}"
    ]
    assert Environment({"X": text}).optional_boolean("X") is None


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-5", -5), ("+5", 5), ("007", 7), (str(2**63 - 1), 2**63 - 1)]
)
def test_an_integer_is_decimal_with_a_sign(text: str, value: int) -> None:
    assert Environment({"X": text}).integer("X", 99) == value


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "0x10", "1_000", " 1", "--1", "\u0661"])
def test_another_integer_is_a_warning_and_the_default(text: str) -> None:
    environment = Environment({"X": text})
    assert environment.integer("X", 99) == 99
    assert len(environment.warnings) == 1
    assert "using default 99: strconv.Atoi: parsing" in environment.warnings[0]
    assert environment.warnings[0].endswith("invalid syntax")


def test_an_integer_of_more_than_64_bits_is_out_of_range() -> None:
    environment = Environment({"X": str(2**63), "Y": "9" * 5000})
    assert environment.integer("X", 99) == environment.integer("Y", 99) == 99
    assert all(warning.endswith("value out of range") for warning in environment.warnings)
    assert len(environment.warnings) == 2


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("-1e-3", -0.001), ("+2E2", 200.0)]
)
def test_a_number_is_decimal_or_scientific(text: str, value: float) -> None:
    assert Environment({"X": text}).number("X", 9.0) == value


@pytest.mark.parametrize("text", ["", ".", "1,5", "0.5s", "e5", "1e", "1e400"])
def test_another_number_is_a_warning_and_the_default(text: str) -> None:
    environment = Environment({"X": text})
    assert environment.number("X", 9.0) == 9.0
    assert len(environment.warnings) == 1


def test_a_duration_is_read_in_seconds_and_its_default_named_in_go_s_notation() -> None:
    environment = Environment({"X": "1m30s", "Y": "90"})
    assert environment.seconds("X", 5.0) == 90.0
    assert environment.seconds("Y", 5.0) == 5.0
    assert environment.warnings == [
        'Invalid environment variable value `90` for Y, using default 5s: time: missing unit in duration "90"'
    ]


def test_a_text_that_is_set_but_empty_is_empty() -> None:
    environment = Environment({"X": ""})
    assert environment.string("X", "default") == ""
    assert environment.string("Y", "default") == "default"
    assert "X" in environment
    assert "Y" not in environment


def test_variables_that_are_not_set_give_their_default_without_a_word() -> None:
    environment = Environment({})
    assert environment.boolean("X", default=True) is True
    assert environment.optional_boolean("X") is None
    assert environment.integer("X", 1) == 1
    assert environment.number("X", 1.5) == 1.5
    assert environment.seconds("X", 1.5) == 1.5
    assert environment.warnings == []


def test_items_with_a_prefix_come_in_the_order_of_the_environment() -> None:
    variables = {"A_Z": "1", "B": "2", "A_a": "3", "A_": "4"}
    environment = Environment(variables)
    assert list(environment.items("A_")) == [("Z", "1"), ("a", "3"), ("", "4")]
    assert environment.as_dict() == variables
    variables["C"] = "later"
    assert "C" not in environment


@given(st.text())
def test_no_text_makes_a_reader_fail(text: str) -> None:
    environment = Environment({"X": text})
    environment.boolean("X", True)
    environment.integer("X", 1)
    environment.number("X", 1.0)
    environment.seconds("X", 1.0)
    assert len(environment.warnings) <= 4
