"""Everything that is measured, in one table: what `bin/bench` runs.

    bin/bench [--quick] [--only QUESTION]… [--out DIRECTORY] [--publish]
    REFERENCE_AGENT=/path/to/another/pilot-agent bin/bench

Each question is asked in a process of its own, several times; one that fails, or takes too long, is a line
in the table and no end of the others. With REFERENCE_AGENT the same is asked of that program in between,
in turns (ours, the other, ours, …), so that both meet the same machine; where it cannot take part the table
says so. The raw reports of every turn are kept with machine and date.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.bench_pages import publish, table, write
from benchmarks.report import Spread, load

REFERENCE: Final = "REFERENCE_AGENT"
_UNDER_TEST: Final = "AGENT_UNDER_TEST"  # read by tests.support.agent


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: so many turns of `python -m benchmarks NAME --times TIMES`."""

    name: str
    turns: int
    times: int
    quick_times: int
    limit_s: float  # of a turn
    is_for_reference: bool = True


QUESTIONS: Final = (
    Question(name="startup", turns=3, times=5, quick_times=2, limit_s=90),
    Question(name="memory", turns=2, times=1, quick_times=1, limit_s=120),
    Question(name="idle_cpu", turns=2, times=2, quick_times=1, limit_s=120),
    Question(name="latency", turns=2, times=2, quick_times=1, limit_s=120),
    Question(name="pushes", turns=2, times=2, quick_times=1, limit_s=120),
    Question(name="identity", turns=2, times=15, quick_times=5, limit_s=90),
    Question(name="hot_restart", turns=1, times=3, quick_times=1, limit_s=120, is_for_reference=False),
    Question(name="envoy_killed", turns=2, times=5, quick_times=2, limit_s=90, is_for_reference=False),
    Question(name="recovery", turns=1, times=30, quick_times=10, limit_s=180, is_for_reference=False),
    Question(name="metrics", turns=2, times=5, quick_times=3, limit_s=90),
    Question(name="dns", turns=2, times=2, quick_times=1, limit_s=90, is_for_reference=False),
    Question(name="capture", turns=2, times=4, quick_times=2, limit_s=90),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of the one table; `value` None: not measured, and `note` says why."""

    question: str
    what: str
    unit: str
    value: Spread | None
    reference: Spread | None = None
    target: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Return ours / the other's."""
        if self.value is None or self.reference is None or not self.reference.median:
            return None
        return self.value.median / self.reference.median

    @property
    def is_met(self) -> bool | None:
        """Return whether the target is met; None where there is none, or nothing was measured."""
        if self.value is None or not self.target:
            return None
        sign, _, limit = self.target.rpartition(" ")
        found, wanted = self.value.median, float(limit)
        return found >= wanted if sign == "≥" else found <= wanted if sign == "≤" else found == wanted


@dataclass(slots=True, kw_only=True)
class Turn:
    """One answer: a report as JSON, or why there is none."""

    question: str
    agent: str  # "ours" or "reference"
    took_s: float
    report: dict[str, Any] | None = None  # Any: JSON
    failure: str = ""


@dataclass(slots=True, kw_only=True)
class Results:
    """All that is kept of a run."""

    began: str
    machine: dict[str, str]
    reference: str
    turns: list[Turn] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        return asdict(self)


def machine() -> dict[str, str]:
    """Return what a reader must know of the machine."""
    cpu = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split(maxsplit=2)[1]
    return {
        "processors": f"{len(os.sched_getaffinity(0))} of {cpu[0].partition(': ')[2] if cpu else 'unknown'}",
        "memory": f"{int(memory) / 1e6:.1f} GB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load at the begin": load(),
    }


def ask(question: Question, agent: str, program: str, times: int) -> Turn:
    """Ask once, in a process of its own."""
    environment = dict(os.environ)
    if program:
        environment[_UNDER_TEST] = program
    began_s = time.monotonic()
    turn = Turn(question=question.name, agent=agent, took_s=0.0)
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        words = [sys.executable, "-m", "benchmarks", question.name, f"--times={times}", "--json", file.name]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        try:
            said, _ = process.communicate(timeout=question.limit_s)
        except subprocess.TimeoutExpired:
            process.terminate()  # which it takes as Ctrl-C: it ends what it has started
            said, _ = process.communicate(timeout=60)
            turn.failure = f"no answer within {question.limit_s:g} s"
        if process.returncode == 0:
            turn.report = json.load(file)[0]
        elif not turn.failure:
            turn.failure = last_line(said)
    turn.took_s = round(time.monotonic() - began_s, 1)
    return turn


def last_line(said: str) -> str:
    """Return the last line that says something, without what a table cannot hold."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    return (lines[-1] if lines else "it said nothing").replace("|", "/")[:160]


def lines_of(turns: Sequence[Turn]) -> Iterator[Line]:
    """Merge the turns of one question: the median of the turns' medians, and the whole range."""
    name = turns[0].question
    ours, others = (
        [one.report for one in turns if one.agent == agent and one.report is not None]
        for agent in ("ours", "reference")
    )
    why_not = next((one.failure for one in turns if one.agent == "reference" and one.failure), "")
    if not ours:
        failure = next(one.failure for one in turns if one.agent == "ours")
        yield Line(question=name, what="not measured", unit="", value=None, note=failure)
        return
    for row in ours[0]["rows"]:
        yield Line(
            question=name,
            what=row["what"],
            unit=row["unit"],
            value=merged([_spread(report, row["what"]) for report in ours]),
            reference=merged([_spread(report, row["what"]) for report in others]),
            target=row["target"],
        )
    if why_not:
        yield Line(question=name, what="the other agent", unit="", value=None, note=why_not)


def merged(spreads: Sequence[Spread | None]) -> Spread | None:
    """Return one spread for several: the middle of the medians, the whole range, all that was counted."""
    known = [one for one in spreads if one is not None]
    if not known:
        return None
    return Spread(
        median=Spread.of([one.median for one in known]).median,
        low=min(one.low for one in known),
        high=max(one.high for one in known),
        count=sum(one.count for one in known),
    )


def _spread(report: dict[str, Any], what: str) -> Spread | None:  # Any: JSON
    return next((Spread(**row["value"]) for row in report["rows"] if row["what"] == what), None)


def run(questions: Sequence[Question], *, reference: str, is_quick: bool) -> Results:
    """Ask everything, in turns; each answer is told when it is there."""
    began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    results = Results(began=began, machine=machine(), reference=reference)
    for question in questions:
        for _ in range(1 if is_quick else question.turns):
            agents = [("ours", "")]
            if reference and question.is_for_reference:
                agents.append(("reference", reference))
            for agent, program in agents:
                times = question.quick_times if is_quick else question.times
                turn = ask(question, agent, program, times)
                results.turns.append(turn)
                told = f"failed: {turn.failure}" if turn.failure else "answered"
                print(f"{question.name}, {agent}: {told} in {turn.took_s:.0f} s", file=sys.stderr, flush=True)
    return results


def lines(results: Results) -> list[Line]:
    """Return the one table."""
    names = dict.fromkeys(turn.question for turn in results.turns)
    return [line for name in names for line in lines_of([t for t in results.turns if t.question == name])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, keep the results; return 1 if something was not measured."""
    parser = argparse.ArgumentParser(prog="bin/bench", description="Measurements of the agent, in one table.")
    known = [one.name for one in QUESTIONS]
    parser.add_argument("--quick", action="store_true", help="one turn of each, with fewer repetitions")
    parser.add_argument("--only", action="append", choices=known, metavar="QUESTION", help=", ".join(known))
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIRECTORY")
    parser.add_argument("--publish", action="store_true", help="put table and plots into docs/")
    parser.add_argument("--note", default="", help="a condition to be told with the results")
    options = parser.parse_args(arguments)
    reference = os.environ.get(REFERENCE, "")
    if reference and not os.access(reference, os.X_OK):
        parser.error(f"{REFERENCE}={reference}: cannot be executed")
    wanted = [one for one in QUESTIONS if not options.only or one.name in options.only]
    reference = str(Path(reference).absolute()) if reference else ""
    results = run(wanted, reference=reference, is_quick=options.quick)
    if options.note:
        results.machine["note"] = options.note
    found = lines(results)
    print(table(found, has_reference=bool(reference)))
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out, results.as_json(), found)
    if options.publish:
        publish(options.out, results.as_json(), found)
    return int(any(one.what == "not measured" for one in found))


if __name__ == "__main__":
    sys.exit(main())
