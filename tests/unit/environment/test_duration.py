"""Go's notation of durations, both ways; the tables were checked against Go itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.environment import duration_s, go_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("+0", 0.0),
        ("1h30m", 5400.0),
        ("2.5s", 2.5),
        (".5s", 0.5),
        ("5.s", 5.0),
        ("-1s", -1.0),
        ("+1s", 1.0),
        ("1s1s", 2.0),
        ("1m1h", 3660.0),
        ("100ms", 0.1),
        ("1us", 1e-6),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("3ns", 3e-9),
        ("0.5ns", 0.0),
        ("1.9ns", 1e-9),
        ("0.0000000019s", 1e-9),
        ("0." + "0" * 5000 + "1s", 0.0),
        ("2562047h47m16.854775807s", 9223372036.854775807),
        ("-2562047h47m16.854775808s", -9223372036.854775808),
        ("1.00000000000000000000000000001s", 1.0),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        (".s", 'time: invalid duration ".s"'),
        (" 1s", 'time: invalid duration " 1s"'),
        ("--1s", 'time: invalid duration "--1s"'),
        ("1s-", 'time: unknown unit "s-" in duration "1s-"'),
        ("90", 'time: missing unit in duration "90"'),
        ("1.", 'time: missing unit in duration "1."'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("00", 'time: missing unit in duration "00"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1 s", 'time: unknown unit " s" in duration "1 s"'),
        ("1S", 'time: unknown unit "S" in duration "1S"'),
        ("1e3s", 'time: unknown unit "e" in duration "1e3s"'),
        ("\u0661s", 'time: invalid duration "\\xd9\\xa1s"'),
        ("1\u00b5", 'time: unknown unit "\\xc2\\xb5" in duration "1\\xc2\\xb5"'),
        ("1.5.5s", 'time: missing unit in duration "1.5.5s"'),
        ('"h', 'time: invalid duration "\\"h"'),
        ("2562048h", 'time: invalid duration "2562048h"'),
        ("2562047h47m16.854775808s", 'time: invalid duration "2562047h47m16.854775808s"'),
    ],
)
def test_what_is_none_is_refused_in_go_s_words(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=r"^time: ") as raised:
        duration_s(text)
    assert str(raised.value) == error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-0.0, "0s"),
        (1e-10, "0s"),
        (1e-9, "1ns"),
        (1.5e-6, "1.5\u00b5s"),
        (0.094994399, "94.994399ms"),
        (0.1, "100ms"),
        (1, "1s"),
        (2.5, "2.5s"),
        (60, "1m0s"),
        (90, "1m30s"),
        (3600, "1h0m0s"),
        (86399.5, "23h59m59.5s"),
        (-1.5, "-1.5s"),
    ],
)
def test_a_duration_is_printed(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@given(st.integers(-(2**52), 2**52))
def test_what_is_printed_reads_back(nanos: int) -> None:
    assert duration_s(go_duration(nanos / 1e9)) == pytest.approx(nanos / 1e9, abs=1e-9)


@given(st.text(alphabet="0123456789.+-hmsun\u00b5 d"))
def test_no_text_fails_but_with_go_s_words(text: str) -> None:
    try:
        seconds = duration_s(text)
    except ValueError as error:
        assert str(error).startswith("time: ")  # noqa: PT017  # most texts are wrong, a few are not
    else:
        assert abs(seconds) <= 2**63 / 1e9
