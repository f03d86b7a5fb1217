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
from pilot_agent.capture.rules import RuleSet, chains_of, restore_input, tables_of
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
    "insert-single": [("chain", 2, "-f foo -b bar")],
    "append-single": [("chain", 0, "-f foo -b bar")],
    "append-multi": [
        ("chain", 0, "-f foo -b bar"),
        ("chain", 0, "-f fu -b bar"),
        ("chain", 0, "-f foo -b baz"),
    ],
    "insert-multi": [
        ("chain", 1, "-f foo -b bar"),
        ("chain", 2, "-f foo -b baaz"),
        ("chain", 3, "-f foo -b baz"),
    ],
    "append-insert-multi": [
        ("chain", 0, "-f foo -b bar"),
        ("chain", 2, "-f foo -b bar"),
        ("chain", 0, "-f foo -b baz"),
    ],
    "multi-rules-new-chain-v4": [
        ("chain", 0, "-f foo -b bar"),
        ("chain", 2, "-f foo -b bar"),
        ("chain", 0, "-f foo -b baz"),
        ("PREROUTING", 0, "-f foo -b bar"),
    ],
    "multi-rules-new-chain-v6": [
        ("chain", 0, "-f foo -b bar"),
        ("chain", 2, "-f foo -b bar"),
        ("chain", 1, "-f foo -b bar"),
    ],
}


def built(name: str) -> RuleSet:
    """Return the rules of a case of the builder; those of one family are made for it alone."""
    rules = RuleSet(ipv6=True)
    family = {"-v4": 4, "-v6": 6}.get(name[-3:], 0)
    for chain, position, words in BUILDER[name]:
        table = "nat" if chain == "PREROUTING" else "table"
        rules.insert(table, chain, position, words, family=family)
    return rules


def builder_golden(name: str) -> list[str]:
    assert REFERENCE is not None
    return lines((REFERENCE / "builder" / f"{name}.golden").read_text(encoding="utf-8"))


@pytest.mark.skipif(REFERENCE is None, reason=MISSING)
@pytest.mark.parametrize("name", BUILDER)
def test_the_restore_format_is_the_reference_s(name: str) -> None:
    made = [found for family in (4, 6) if (found := built(name).of(family))]

    assert made
    for rules in made:
        assert lines(restore_input(rules)) == builder_golden(f"{name}-restore")


@pytest.mark.skipif(REFERENCE is None, reason=MISSING)
@pytest.mark.parametrize("name", BUILDER)
def test_rule_by_rule_the_chains_and_the_order_are_the_reference_s(name: str) -> None:
    made = [found for family in (4, 6) if (found := built(name).of(family))]

    assert made
    for rules in made:
        new = [f"-t {table} -N {chain}" for table in tables_of(rules) for chain in chains_of(rules, table)]
        assert new + [f"-t {rule.table} {rule.line}" for rule in rules] == builder_golden(name)


def test_both_families_mixed_give_each_its_own_input_with_a_chain_made_once_a_table() -> None:
    rules = RuleSet(ipv6=True)
    rules.append("table", "chain", "-a b", family=4)
    rules.insert("table", "chain", 2, "-c d", family=4)
    rules.append("nat", "PREROUTING", "-a b", family=4)
    rules.append("table", "chain", "-e f", family=6)
    rules.insert("table", "chain", 1, "-g h", family=6)

    v4 = "* nat\n-A PREROUTING -a b\nCOMMIT\n* table\n-N chain\n-A chain -a b\n-I chain 2 -c d\nCOMMIT\n"
    assert restore_input(rules.of(4)) == v4
    assert restore_input(rules.of(6)) == "* table\n-N chain\n-A chain -e f\n-I chain 1 -g h\nCOMMIT\n"
