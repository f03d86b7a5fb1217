"""The form of a line, and which lines are written."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent import log
from pilot_agent.log.lines import Line, as_json, as_text

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "log"
    log.configure()


def configure(target: Path, **flags: object) -> None:
    log.configure(targets=(str(target),), **flags)  # type: ignore[arg-type]  # a test's shorthand


def text_of(line: Line) -> str:
    text = as_text(line)
    assert re.match(TIME, text)
    return re.sub(rf"^{TIME}\t", "", text)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (Line("info", "default", "", "hello", {}, ""), "info\thello"),
        (Line("warn", "sds", "", "hello", {}, ""), "warn\tsds\thello"),
        (Line("info", "default", "", "", {}, ""), "info\t"),
        (Line("info", "default", "", "a\nb", {}, ""), "info\ta\nb"),
        (Line("info", "ads", "envoy/agent.py:12", "m", {}, ""), "info\tads\tenvoy/agent.py:12\tm"),
        (
            Line(
                "info", "default", "", "Proxy role", {"ips": ["10.0.0.1", "::1"], "id": ".", "empty": ""}, ""
            ),
            "info\tProxy role\tips=[10.0.0.1 ::1] id=. empty=",
        ),
        (
            Line("info", "cache", "", "m", {"ok": True, "none": None, "all": (False, 1), "n": 1.5}, ""),
            "info\tcache\tm\tok=true none=<nil> all=[false 1] n=1.5",
        ),
        (Line("error", "default", "", "m", {"k": 1}, "at a\nat b"), "error\tm\tk=1\nat a\nat b"),
    ],
)
def test_a_text_line_has_its_fields_between_tabs(line: Line, expected: str) -> None:
    assert text_of(line) == expected


def test_a_json_line_has_its_members_in_order_and_leaves_out_what_is_missing() -> None:
    full = json.loads(as_json(Line("error", "sds", "a/b.py:1", "x\ny", {"ids": ("a",), "n": 3}, "at c")))
    assert list(full) == ["level", "time", "scope", "caller", "msg", "ids", "n", "stack"]
    assert re.fullmatch(TIME, full.pop("time"))
    assert full == {
        "level": "error",
        "scope": "sds",
        "caller": "a/b.py:1",
        "msg": "x\ny",
        "ids": ["a"],
        "n": 3,
        "stack": "at c",
    }
    assert list(json.loads(as_json(Line("info", "default", "", "", {}, "")))) == ["level", "time", "msg"]


@given(
    st.text(),
    st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    ),
)
def test_every_json_line_is_one_line_of_json(message: str, labels: dict[str, object]) -> None:
    line = as_json(Line("info", "default", "", message, labels, ""))
    assert "\n" not in line
    members = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    if "msg" not in labels:
        assert members["msg"] == message


def test_levels_are_set_scope_by_scope_and_later_entries_win(target: Path) -> None:
    configure(target, output_level="all:warn,sds:debug,ads:debug,ads:none,error")
    for scope in ("default", "sds", "ads", "cache", "grpc"):
        for level in ("debug", "info", "warn", "error", "fatal"):
            getattr(log.get_logger(scope), level)(f"{scope} {level}")
    written = [line.rpartition("\t")[2] for line in target.read_text().splitlines()]
    assert written == [
        *("default error", "default fatal"),
        *("sds debug", "sds info", "sds warn", "sds error", "sds fatal"),
        *("cache warn", "cache error", "cache fatal"),
        *("grpc warn", "grpc error", "grpc fatal"),
    ]


def test_without_flags_everything_but_grpc_is_at_info(target: Path) -> None:
    configure(target)
    assert [log.get_logger(scope).enabled("info") for scope in ("default", "xdsproxy", "new", "grpc")] == [
        *(True, True, True),
        False,
    ]
    assert not log.get_logger("xdsproxy").enabled("debug")
    assert not log.get_logger("grpc").enabled("fatal")


def test_unknown_scopes_do_no_harm(target: Path) -> None:
    configure(target, output_level="nobody:debug", stacktrace_level="nobody:debug", callers="nobody,")
    log.get_logger().info("m")
    assert re.fullmatch(rf"{TIME}\tinfo\tm\n", target.read_text())


@pytest.mark.parametrize("as_json_too", [False, True])
def test_a_scope_may_name_the_line_that_logs(target: Path, as_json_too: bool) -> None:
    configure(target, callers="sds,unknown", as_json=as_json_too)
    log.get_logger("sds").info("here")
    log.get_logger("ads").info("there")
    first, second = target.read_text().splitlines()
    assert re.search(r"log/test_lines\.py:\d+", first)
    assert "test_lines" not in second
    configure(target, callers="all")
    log.get_logger("ads").info("now")
    assert re.search(r"\tads\tlog/test_lines\.py:\d+\tnow$", target.read_text().splitlines()[-1])


def test_a_stack_follows_from_its_level_on(target: Path) -> None:
    configure(target, stacktrace_level="sds:error")
    log.get_logger("sds").warn("no stack")
    log.get_logger().error("none either")
    log.get_logger("sds").error("with stack", k=1)
    lines = target.read_text().splitlines()
    assert lines[2].endswith("with stack\tk=1")
    assert "test_a_stack_follows_from_its_level_on" in lines[-2]
    assert lines[-1].strip() == 'log.get_logger("sds").error("with stack", k=1)'


def test_lines_go_to_every_target_and_files_are_appended_to(tmp_path: Path, target: Path) -> None:
    target.write_text("before\n")
    other = tmp_path / "other"
    log.configure(targets=(str(target), str(other)))
    log.get_logger().info("m")
    assert target.read_text() == "before\n" + other.read_text()
    assert other.read_text().endswith("\tinfo\tm\n")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x", "invalid output level 'x'"),
        ("sds:x", "invalid output level 'x'"),
        ("a:b:c", "invalid output level format 'a:b:c'"),
        ("info,", "invalid output level ''"),
        ("INFO", "invalid output level 'INFO'"),
    ],
)
@pytest.mark.parametrize("flag", ["output_level", "stacktrace_level"])
def test_a_wrong_level_is_refused_in_the_words_of_the_reference(flag: str, text: str, error: str) -> None:
    with pytest.raises(log.LogConfigurationError) as raised:
        log.configure(**{flag: text})  # type: ignore[arg-type]  # a test's shorthand
    assert str(raised.value) == error


@pytest.mark.parametrize(
    "wrong",
    [
        {"output_level": "loud"},
        {"stacktrace_level": "sds:loud"},
        {"targets": ("stdout", "/nowhere/log")},
    ],
    ids=["level", "stack level", "target"],
)
def test_a_wrong_flag_changes_nothing_at_all(target: Path, wrong: dict[str, object]) -> None:
    configure(target, output_level="warn")
    descriptors = log.sink_descriptors()
    good: dict[str, object] = {"as_json": True, "callers": "all", "output_level": "debug"}
    with pytest.raises((log.LogConfigurationError, OSError)):
        log.configure(**(good | wrong))  # type: ignore[arg-type]  # a test's shorthand
    assert log.sink_descriptors() == descriptors
    log.get_logger().info("not written")
    log.get_logger().warn("written")
    assert re.fullmatch(rf"{TIME}\twarn\twritten\n", target.read_text())
