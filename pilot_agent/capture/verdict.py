"""Compares what is planned with what is there: the pure part of idempotence."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from pilot_agent.capture.rules import BUILT_IN, Rule, chains_of, tables_of
from pilot_agent.capture.saved import (
    Saved,
    Table,
    canonical,
    canonical_line,
    has_our_chains,
    has_rules,
    our_chains,
)


class Verdict(NamedTuple):
    """What one family looks like.

    `different` are the tables that are not as planned; `unsure` are planned rules that were not found by
    their text: only iptables itself can tell whether they are there.
    """

    residue: bool
    different: frozenset[str]
    unsure: tuple[Rule, ...] = ()


def compare(rules: Iterable[Rule], saved: Saved) -> Verdict:
    """Return the verdict on one family."""
    planned = list(rules)
    residue = has_our_chains(saved) or has_rules(saved)
    different = {table for table, chains in saved.items() if our_chains(chains)} - set(tables_of(planned))
    unsure: list[Rule] = []
    for table in tables_of(planned):
        ours = [rule for rule in planned if rule.table == table]
        if _has_other_chains(ours, saved.get(table, {}), table):
            different.add(table)
        else:
            unsure += _not_found(ours, saved[table])
    return Verdict(residue, frozenset(different), tuple(unsure))


def decided(verdict: Verdict, missing: Iterable[Rule]) -> Verdict:
    """Return the verdict when iptables said which of the unsure rules are missing."""
    return Verdict(verdict.residue, verdict.different | {rule.table for rule in missing})


def _has_other_chains(rules: list[Rule], there: Table, table: str) -> bool:
    names = chains_of(rules, table)
    if set(our_chains(there)) != set(names):
        return True
    counts = Counter(rule.chain for rule in rules)
    return any(len(there[name].rules) != counts[name] for name in names)


def _not_found(rules: list[Rule], there: Table) -> list[Rule]:
    found = {name: Counter(map(canonical_line, chain.rules)) for name, chain in there.items()}
    missing = []
    for rule in rules:
        form, chain = canonical(rule.words), found.get(rule.chain, Counter())
        if not chain[form]:
            missing.append(rule)
        elif rule.chain not in BUILT_IN:
            chain[form] -= 1
    return missing
