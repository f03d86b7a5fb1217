"""Words become flags and arguments as pflag reads them; the table was checked against pflag itself."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag, as_text
from pilot_agent.cli.parser import Parser

INVALID = 'invalid argument "{}" for "{}" flag: strconv.{}: parsing "{}": {}'
FLAGS = (
    Flag("short", "bool", False, "", "s"),
    Flag("output", "string", "", "", "o"),
    Flag("profiling", "bool", True, ""),
    Flag("domain", "string", "", ""),
    Flag("concurrency", "int", 0, ""),
    Flag("debug-port", "int32", 15000, ""),
    Flag("log_target", "stringArray", ("stdout",), ""),
)


def as_id(value: object) -> str | None:
    return " ".join(value) if isinstance(value, list) else None


def parsed(*words: str, drop_unknown: bool = False) -> Parser:
    parser = Parser(FLAGS, drop_unknown=drop_unknown)
    parser.parse(words)
    return parser


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        (["--domain", "d"], "domain", "d"),
        (["--domain=d=e"], "domain", "d=e"),
        (["--domain="], "domain", ""),
        (["--domain", ""], "domain", ""),
        (["--domain", "--profiling"], "domain", "--profiling"),
        (["--domain", "a", "--domain", "b"], "domain", "b"),
        (["-o", "json"], "output", "json"),
        (["-ojson"], "output", "json"),
        (["-o=json"], "output", "json"),
        (["-so", "json"], "output", "json"),
        (["-so=json"], "output", "json"),
        (["-s"], "short", True),
        (["-s=false"], "short", False),
        (["--short", "--short=f"], "short", False),
        (["--profiling=0"], "profiling", False),
        (["--concurrency", "-5"], "concurrency", -5),
        (["--concurrency", "+5"], "concurrency", 5),
        (["--concurrency", "0x10"], "concurrency", 16),
        (["--concurrency", "0o17"], "concurrency", 15),
        (["--concurrency", "017"], "concurrency", 15),
        (["--concurrency", "0_17"], "concurrency", 15),
        (["--concurrency", "0b1"], "concurrency", 1),
        (["--concurrency", "1_000"], "concurrency", 1000),
        (["--concurrency", "00"], "concurrency", 0),
        ([], "log_target", ("stdout",)),
        (["--log_target", "a", "--log_target=b"], "log_target", ("a", "b")),
    ],
    ids=as_id,
)
def test_a_flag_takes_its_value_in_every_form(words: list[str], name: str, expected: object) -> None:
    assert parsed(*words).values[name] == expected


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_the_six_spellings_of_true(text: str) -> None:
    assert parsed(f"--short={text}").values.boolean("short")


def test_a_boolean_leaves_the_next_word_alone() -> None:
    parser = parsed("--profiling", "false")
    assert parser.values.boolean("profiling")
    assert parser.arguments == ["false"]


def test_flags_and_words_mix_until_two_dashes() -> None:
    parser = parsed("a", "-s", "-", "", "--", "--domain", "x")
    assert parser.arguments == ["a", "-", "", "--domain", "x"]
    assert parser.values.boolean("short")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["--foo=1"], "unknown flag: --foo"),
        (["-f"], "unknown shorthand flag: 'f' in -f"),
        (["-sx"], "unknown shorthand flag: 'x' in -x"),
        (["-s="], "unknown shorthand flag: '=' in -="),
        (["--domain"], "flag needs an argument: --domain"),
        (["-o"], "flag needs an argument: 'o' in -o"),
        (["-so"], "flag needs an argument: 'o' in -o"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---x"], "bad flag syntax: ---x"),
        (
            ["--short=maybe"],
            INVALID.format("maybe", "-s, --short", "ParseBool", "maybe", "invalid syntax"),
        ),
        (
            ["--concurrency", "x"],
            INVALID.format("x", "--concurrency", "ParseInt", "x", "invalid syntax"),
        ),
        (
            ["--concurrency", "9223372036854775808"],
            INVALID.format(2**63, "--concurrency", "ParseInt", 2**63, "value out of range"),
        ),
        (
            ["--debug-port", "2147483648"],
            INVALID.format(2**31, "--debug-port", "ParseInt", 2**31, "value out of range"),
        ),
    ],
    ids=as_id,
)
def test_an_error_has_the_texts_of_the_reference(words: list[str], text: str) -> None:
    with pytest.raises(CliError) as raised:
        parsed(*words)
    assert str(raised.value) == text


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "1__0", "_1", "1_", "08", "0x", "+-5", "1.0", "\u0661", "1e3"]
)
def test_what_is_no_integer_in_go_is_none_here(text: str) -> None:
    with pytest.raises(CliError, match="invalid syntax"):
        parsed(f"--concurrency={text}")


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["--x=1", "a"], ["a"]),
        (["--x", "a", "b"], ["b"]),
        (["--x", "-s", "b"], ["b"]),
        (["-x", "a", "b"], ["b"]),
        (["-x=1", "a"], ["a"]),
        (["-xy", "a", "b", "c"], ["b", "c"]),
        (["-xs", "a", "b"], ["a", "b"]),
        (["-sx", "a", "b"], ["b"]),
        (["--x"], []),
        (["--x", "", "b"], ["b"]),
    ],
    ids=as_id,
)
def test_an_unknown_flag_is_dropped_with_the_word_that_may_be_its_value(
    words: list[str], arguments: list[str]
) -> None:
    assert parsed(*words, drop_unknown=True).arguments == arguments


@given(st.lists(st.text(max_size=8), max_size=6), st.booleans())
def test_no_words_make_the_parser_fail_but_with_a_text_for_the_user(
    words: list[str], drop_unknown: bool
) -> None:
    parser = Parser(FLAGS, drop_unknown=drop_unknown)
    with contextlib.suppress(CliError):
        parser.parse(words)
    assert all(argument in words for argument in parser.arguments)


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["{}", "{:#x}", "{:#b}", "{:#o}", "{:_}"]))
def test_an_integer_is_read_in_each_of_its_spellings(number: int, spelling: str) -> None:
    assert parsed("--concurrency", spelling.format(number)).values.integer("concurrency") == number


def test_values_print_as_the_reference_prints_them() -> None:
    printed = dict(parsed("--log_target=a", "--log_target", 'b,"c').values.printed())
    assert printed["log_target"] == '[a,"b,""c"]'
    assert printed["short"] == "false"
    assert list(printed) == sorted(printed)
    assert as_text(15000) == "15000"
