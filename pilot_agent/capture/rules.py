"""Rules of iptables as data, and the text that iptables-restore reads.

A `RuleSet` collects them in the order in which they are made. What a rule says is a template of words, so
that a feature reads like the line it makes.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

BUILT_IN: Final = frozenset({"INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING"})
_VERDICTS: Final = BUILT_IN | {"ACCEPT", "RETURN", "DROP"}
OURS: Final = "ISTIO_"
"""What the names of our chains begin with."""

PER_FAMILY: Final = {
    4: {"loopback": "127.0.0.1/32", "source": "127.0.0.6/32", "any_bits": "32"},
    6: {"loopback": "::1/128", "source": "::6/128", "any_bits": "128"},
}
"""What the words `{loopback}`, `{source}` and `{any_bits}` of a template mean."""


class Rule(NamedTuple):
    """One rule; `position` counts from 1, 0 stands for the end of the chain."""

    family: int
    table: str
    chain: str
    words: tuple[str, ...]
    position: int = 0

    @property
    def target(self) -> str:
        """Return where the rule jumps to; empty when its last two words are no jump."""
        return self.words[-1] if self.words[-2:-1] == ("-j",) else ""

    def command(self, letter: str) -> tuple[str, ...]:
        """Return the arguments that append (A), check (C) or delete (D) the rule; its place is left out."""
        return ("-t", self.table, f"-{letter}", self.chain, *self.words)

    @property
    def line(self) -> str:
        """Return the rule as iptables-restore reads it."""
        head = f"-I {self.chain} {self.position}" if self.position else f"-A {self.chain}"
        return " ".join((head, *self.words))


class RuleSet:
    """Rules in the making."""

    def __init__(self, *, ipv6: bool, loopback: str = "127.0.0.1/32") -> None:
        self.rules: list[Rule] = []
        self._families = (4, 6) if ipv6 else (4,)
        self._words = {4: PER_FAMILY[4] | {"loopback": loopback}, 6: PER_FAMILY[6]}

    def append(self, table: str, chain: str, template: str, *, family: int = 0, **values: str) -> None:
        """Append a rule in both families, or in `family`; without IPv6 nothing is made for it."""
        self.insert(table, chain, 0, template, family=family, **values)

    def insert(
        self, table: str, chain: str, position: int, template: str, *, family: int = 0, **values: str
    ) -> None:
        """Insert a rule at `position`; a value is one word, whatever stands in it."""
        for one in self._families:
            if family in (0, one):
                known = self._words[one] | values
                words = tuple(word.format_map(known) for word in template.split())
                self.rules.append(Rule(one, table, chain, words, position))

    def of(self, family: int) -> list[Rule]:
        return [rule for rule in self.rules if rule.family == family]


def tables_of(rules: Iterable[Rule]) -> list[str]:
    """Return the names of the tables that have rules, sorted."""
    return sorted({rule.table for rule in rules})


def chains_of(rules: Iterable[Rule], table: str) -> list[str]:
    """Return the chains that must be made in `table`: those that hold rules, then those only jumped to."""
    ours = [rule for rule in rules if rule.table == table]
    names = [rule.chain for rule in ours] + [rule.target for rule in ours if rule.target]
    return [name for name in dict.fromkeys(names) if name not in _VERDICTS]


def restore_input(rules: Iterable[Rule]) -> str:
    """Return what makes `rules`, of one family, out of nothing; empty without rules."""
    made = list(rules)
    return "".join(_table_input(made, table) for table in tables_of(made))


def _table_input(rules: list[Rule], table: str) -> str:
    lines = [f"* {table}"]
    lines += [f"-N {chain}" for chain in chains_of(rules, table)]
    lines += [rule.line for rule in rules if rule.table == table]
    return "\n".join([*lines, "COMMIT"]) + "\n"
