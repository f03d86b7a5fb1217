"""Inputs for iptables-restore that change what is there: remove what is ours, replace it, undo a change.

Each table is one transaction of the kernel: it is changed as a whole or not at all.
"""

from collections.abc import Iterable, Sequence

from pilot_agent.capture.ours import our_rules
from pilot_agent.capture.rules import BUILT_IN, OURS, Rule, chains_of
from pilot_agent.capture.saved import Canonical, Saved, canonical, our_chains

GUARDRAILS = tuple(
    (chain, f"-p {protocol} -j DROP")
    for chain in ("INPUT", "FORWARD", "OUTPUT")
    for protocol in ("tcp", "udp")
)
"""What keeps packets in while the rules are exchanged."""


def removal(saved: Saved, rules: Iterable[Rule] = (), *, by_place: bool = False) -> str:
    """Return what removes everything of ours, whoever made it; `rules` are the current configuration's.

    `by_place`: rules are deleted by their number, since the program would find others by their words.
    """
    return _tables({table: _removed(saved, table, list(rules), by_place=by_place) for table in sorted(saved)})


def replacement(saved: Saved, rules: Sequence[Rule], tables: Iterable[str], *, by_place: bool = False) -> str:
    """Return what puts `rules` in the place of everything of ours in `tables`."""
    inputs = {}
    for table in sorted(tables):
        names = chains_of(rules, table)
        # A chain that is declared is emptied if it exists: nobody can see the table without it.
        fresh = [f":{name} - [0:0]" for name in names]
        removed = _removed(saved, table, rules, kept=frozenset(names), by_place=by_place)
        inputs[table] = fresh + removed + [rule.line for rule in rules if rule.table == table]
    return _tables(inputs)


def revert(before: Saved, after: Saved) -> str:
    """Return what makes the tables of `after` as they were in `before`."""
    inputs = {}
    for table in sorted(after):
        old, new = before.get(table, {}), after[table]
        changed = [name for name in old if new.get(name, None) != old[name]]
        gone = [name for name in new if name not in old and name not in BUILT_IN]
        filled = [name for name in new if name not in old and name in BUILT_IN and new[name].rules]
        lines = [f"-N {name}" for name in changed if name not in new and name not in BUILT_IN]
        lines += [f"-F {name}" for name in [*changed, *gone, *filled] if name in new]
        lines += [f"-A {name} {rule}" for name in changed for rule in old[name].rules]
        inputs[table] = lines + [f"-X {name}" for name in gone]
    return _tables(inputs)


def guardrails_up() -> str:
    """Return what lets no packet pass; one transaction, so a kill leaves all six or none."""
    return _tables({"filter": [f"-I {chain} 1 {words}" for chain, words in GUARDRAILS]})


def guardrails_down(saved: Saved) -> str:
    """Return what removes guardrails; empty when not all of them are there."""
    there = {
        (chain, tuple(rule.split()))
        for chain, content in saved.get("filter", {}).items()
        for rule in content.rules
    }
    if not all((chain, tuple(words.split())) in there for chain, words in GUARDRAILS):
        return ""
    return _tables({"filter": [f"-D {chain} {words}" for chain, words in GUARDRAILS]})


def _removed(
    saved: Saved,
    table: str,
    rules: Iterable[Rule],
    kept: frozenset[str] = frozenset(),
    *,
    by_place: bool,
) -> list[str]:
    chains = saved.get(table, {})
    known: frozenset[tuple[str, str, Canonical]] = frozenset(
        (rule.table, rule.chain, canonical(rule.words)) for rule in rules
    )
    found = [one[1:] for one in our_rules(saved, known) if one[0] == table]
    if by_place:
        found = [(chain, place, str(place)) for chain, place, _ in sorted(found, reverse=True)]
    gone = [name for name in our_chains(chains) if name not in kept]
    return [
        *(f"-D {chain} {rule}" for chain, _, rule in found),
        *(f"-F {name}" for name in gone),
        *(f"-X {name}" for name in gone),
    ]


def cleanup_commands(rules: Sequence[Rule]) -> list[tuple[str, ...]]:
    """Return the commands with which the reference removes one configuration's rules, last made first."""
    backwards = list(reversed(rules))
    deleted = [
        rule.command("D")
        for rule in backwards
        if not rule.chain.startswith(OURS) or rule.target.startswith(OURS)
    ]
    emptied = dict.fromkeys((rule.table, rule.chain) for rule in backwards if rule.chain not in BUILT_IN)
    return deleted + [("-t", table, flag, chain) for table, chain in emptied for flag in ("-F", "-X")]


def _tables(inputs: dict[str, list[str]]) -> str:
    return "".join(
        "\n".join((f"* {table}", *lines, "COMMIT")) + "\n" for table, lines in inputs.items() if lines
    )
