"""The one table: turns are merged, another agent stands beside, what fails is a line and no end."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench, bench_pages
from benchmarks.bench import Line, Question, Results, Turn, ask, last_line, lines, merged
from benchmarks.report import Spread


def report(**rows: float) -> dict[str, Any]:
    return {
        "question": "how long",
        "rows": [
            {"what": what, "unit": "ms", "value": vars_of(Spread.of([value])), "target": "≤ 4"}
            for what, value in rows.items()
        ],
        "notes": [],
        "conditions": {"load": "0.50 (1 min), 0.40 (5 min)"},
    }


def vars_of(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "low": spread.low, "high": spread.high, "count": spread.count}


def results(*turns: Turn) -> Results:
    return Results(began="2026-01-02 03:04 UTC", machine={"kernel": "6"}, reference="", turns=list(turns))


def turn(agent: str = "ours", **rows: float) -> Turn:
    return Turn(question="startup", agent=agent, took_s=1.0, report=report(**rows))


def test_turns_are_merged_row_by_row() -> None:
    (line,) = lines(results(turn(start=3), turn(start=5), turn(start=4)))
    assert line.value == Spread(median=4, low=3, high=5, count=3)
    assert line.is_met is True


def test_another_agent_stands_beside_with_the_ratio() -> None:
    (line,) = lines(results(turn(start=6), turn("reference", start=4)))
    assert line.ratio == pytest.approx(1.5)
    assert line.is_met is False
    text = bench_pages.table([line], has_reference=True)
    assert "MISSED" in text
    assert "1.5" in text.splitlines()[1]


def test_a_question_that_failed_is_a_line_that_says_why() -> None:
    failed = Turn(question="metrics", agent="ours", took_s=1.0, failure="no envoy")
    start, metrics = lines(results(turn(start=3), failed))
    assert start.value is not None
    assert (metrics.what, metrics.value, metrics.note) == ("not measured", None, "no envoy")


def test_where_the_other_agent_cannot_take_part_ours_is_told_all_the_same() -> None:
    refused = Turn(question="startup", agent="reference", took_s=1.0, failure="unknown flag")
    start, other = lines(results(turn(start=3), refused))
    assert start.value is not None
    assert start.ratio is None
    assert (other.what, other.note) == ("the other agent", "unknown flag")


def test_what_only_one_turn_has_counts() -> None:
    assert merged([None, Spread.of([2.0])]) == Spread(median=2, low=2, high=2, count=1)
    assert merged([None]) is None


@pytest.mark.parametrize(
    ("target", "value", "is_met"),
    [
        ("≤ 5", 5.0, True),
        ("≤ 5", 5.1, False),
        ("≥ 5000", 4999.0, False),
        ("0", 0.0, True),
        ("0", 1.0, False),
        ("3", 2.0, False),
    ],
)
def test_a_target_is_a_limit_from_above_or_below_or_a_number(target: str, value: float, is_met: bool) -> None:
    line = Line(question="q", what="w", unit="", value=Spread.of([value]), target=target)
    assert line.is_met is is_met


def test_what_a_program_said_last_fits_into_a_table() -> None:
    assert last_line("Traceback\n  a | b\n\n") == "a / b"
    assert last_line("") == "it said nothing"


def test_a_question_that_cannot_be_asked_says_why() -> None:
    question = Question(name="no-such-question", turns=1, times=1, quick_times=1, limit_s=60)
    assert "no-such-question" in ask(question, "ours", "", 1).failure


def test_a_question_that_takes_too_long_is_ended() -> None:
    question = Question(name="dns", turns=1, times=50, quick_times=1, limit_s=0.5)
    assert ask(question, "ours", "", 50).failure == "no answer within 0.5 s"


def test_the_program_that_is_named_is_the_one_that_is_measured(tmp_path: Path) -> None:
    program = tmp_path / "pilot-agent"
    program.write_text(f"#!/bin/sh\necho started >{tmp_path}/said\nexit 3\n")
    program.chmod(0o755)
    question = Question(name="startup", turns=1, times=1, quick_times=1, limit_s=60)
    found = ask(question, "reference", str(program), 1)
    assert found.report is None
    assert (tmp_path / "said").read_text() == "started\n"


def test_a_reference_that_cannot_be_executed_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(bench.REFERENCE, "/no/such/agent")
    with pytest.raises(SystemExit):
        bench.main(["--quick"])
    assert "REFERENCE_AGENT=/no/such/agent: cannot be executed" in capsys.readouterr().err


def test_results_are_kept_with_machine_and_date(tmp_path: Path) -> None:
    found = results(turn(start=3))
    bench_pages.write(tmp_path, found.as_json(), lines(found))
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["began"] == "2026-01-02 03:04 UTC"
    assert kept["turns"][0]["report"]["rows"][0]["what"] == "start"
    assert "| startup | start | 3 | ms | ≤ 4 | met |" in (tmp_path / "table.md").read_text()


def test_the_page_is_changed_between_its_marks_alone() -> None:
    page = f"before\n{bench_pages.BEGIN}\nold\n{bench_pages.END}\nafter\n"
    assert bench_pages.replaced(page, "new") == "before\nnew\nafter\n"
    with pytest.raises(ValueError, match="wanted the lines"):
        bench_pages.replaced("no marks", "new")


def test_pictures_are_left_out_where_there_is_no_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench_pages.plot(tmp_path, lines(results(turn(start=3)))) == []
    assert "matplotlib is missing" in capsys.readouterr().out
