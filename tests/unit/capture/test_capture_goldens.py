"""Recorded runs of the reference give the same rules, line by line.

Those recorded for this project are in tests/data. The reference's own golden files are its, and not copied
here: PILOT_AGENT_CAPTURE_GOLDENS names a folder with `iptables/`, `nftables/` and `builder/`.
"""

import os
from pathlib import Path

import pytest

from pilot_agent.capture.dry_run import Record, dry_iptables
from pilot_agent.capture.iptables_rules import build_rules
from pilot_agent.capture.nftables_rules import build_transaction
from pilot_agent.capture.rules import RuleSet, restore_input
from tests.support.capture_golden import CaptureCase, capture_cases

VARIABLE = "PILOT_AGENT_CAPTURE_GOLDENS"
RECORDED = Path(__file__).parents[2] / "data" / "iptables-goldens"
REFERENCE = Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None
MISSING = f"{VARIABLE} names no folder of golden files"


def reference_cases(kind: str) -> list[CaptureCase]:
    return capture_cases(REFERENCE / kind) if REFERENCE is not None else []


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip("\n").splitlines()]


def dry_run(case: CaptureCase, path: Path) -> list[str]:
    options = case.options()
    if not options.settings.skip_rule_apply:
        dry_iptables(options, build_rules(options), Record(str(path)), lambda _line: None)
    return lines(path.read_text(encoding="utf-8")) if path.exists() else []


def test_there_are_as_many_cases_as_were_recorded() -> None:
    assert len(capture_cases(RECORDED)) == 27


@pytest.mark.parametrize("case", capture_cases(RECORDED), ids=lambda case: case.name)
def test_a_dry_run_writes_what_was_recorded(case: CaptureCase, tmp_path: Path) -> None:
    assert dry_run(case, tmp_path / "record") == lines(case.golden)


@pytest.mark.skipif(REFERENCE is None, reason=MISSING)
@pytest.mark.parametrize("case", reference_cases("iptables"), ids=lambda case: case.name)
def test_a_dry_run_writes_what_the_reference_expects(case: CaptureCase, tmp_path: Path) -> None:
    assert dry_run(case, tmp_path / "record") == lines(case.golden)


@pytest.mark.skipif(REFERENCE is None, reason=MISSING)
@pytest.mark.parametrize("case", reference_cases("nftables"), ids=lambda case: case.name)
def test_the_transaction_is_the_one_that_the_reference_expects(case: CaptureCase) -> None:
    assert build_transaction(case.options()) == lines(case.golden)


BUILDER = {
    "insert-single": [(2, "-f foo -b bar")],
    "append-single": [(0, "-f foo -b bar")],
    "append-multi": [(0, "-f foo -b bar"), (0, "-f fu -b bar"), (0, "-f foo -b baz")],
    "insert-multi": [(1, "-f foo -b bar"), (2, "-f foo -b baaz"), (3, "-f foo -b baz")],
    "append-insert-multi": [(0, "-f foo -b bar"), (2, "-f foo -b bar"), (0, "-f foo -b baz")],
}


@pytest.mark.skipif(REFERENCE is None, reason=MISSING)
@pytest.mark.parametrize("name", BUILDER)
def test_the_restore_format_is_the_reference_s(name: str) -> None:
    assert REFERENCE is not None
    rules = RuleSet(ipv6=True)
    for position, words in BUILDER[name]:
        rules.insert("table", "chain", position, words)

    golden = (REFERENCE / "builder" / f"{name}-restore.golden").read_text(encoding="utf-8")
    for family in (4, 6):
        assert lines(restore_input(rules.of(family))) == lines(golden)
