"""What iptables-save says, and when a rule in it is the same as one of ours.

iptables prints a rule in other words than it was given (`--set-mark 1337` becomes `--set-xmark
0x539/0xffffffff`), so both are brought into one form before they are compared.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final, NamedTuple

from pilot_agent.capture.rules import OURS

TABLES: Final = ("filter", "nat", "mangle", "raw")

Term = tuple[str, ...]
Canonical = tuple[Term, ...]
"""The options of a rule, sorted: (`!` or nothing, flag, values …)."""

_ADDRESS: Final = frozenset({"-s", "-d", "--source", "--destination"})
_NUMBERS: Final = frozenset(
    {"--dport", "--sport", "--dports", "--sports", "--to-ports", "--on-port", "--uid-owner", "--gid-owner"}
)
_MARKS: Final = frozenset({"--mark", "--set-xmark", "--tproxy-mark"})
_SPELLINGS: Final = {"--to-port": "--to-ports", "--set-mark": "--set-xmark"}
_SILENT: Final = frozenset({"-m", "--nfmask", "--ctmask", "--on-ip"})
"""What is implied by the other options, or is printed with its default. So is the interface `+`: any."""

_ALL_BITS: Final = 0xFFFFFFFF
_QUOTED: Final = r'"((?:\\.|[^"\\])*)"'
_WORD: Final = re.compile(rf'(?:{_QUOTED}|[^ \t"])+')


class Chain(NamedTuple):
    """Rules as they were printed, without `-A CHAIN`."""

    rules: tuple[str, ...] = ()


Table = dict[str, Chain]
Saved = dict[str, Table]
"""Table → chain → rules, of the four tables that count."""


def parse_saved(text: str) -> Saved:
    """Return what `iptables-save` printed; counters, comments and other tables are left out."""
    saved: Saved = {}
    table: dict[str, list[str]] = {}
    for line in text.split("\n"):  # an interface may have any other character in its name
        if line.startswith("*"):
            name, table = line[1:].strip(), {}
        elif line.startswith(":"):
            table[line[1:].split(" ", 1)[0]] = []
        elif line.startswith(("-A ", "[")):
            chain, _, words = line[line.find("-A ") + 3 :].partition(" ")
            table.setdefault(chain, []).append(words)
        elif line == "COMMIT" and name in TABLES:
            saved[name] = {chain: Chain(tuple(rules)) for chain, rules in table.items()}
    return saved


def our_chains(table: Table) -> list[str]:
    return [name for name in table if name.startswith(OURS)]


def has_rules(saved: Saved) -> bool:
    """Return whether there is any rule in any chain."""
    return any(chain.rules for table in saved.values() for chain in table.values())


def has_our_chains(saved: Saved) -> bool:
    return any(our_chains(table) for table in saved.values())


def canonical(words: Iterable[str]) -> Canonical:
    """Return the form in which a planned and a printed rule are equal."""
    return canonical_line(" ".join(words))


def canonical_line(rule: str) -> Canonical:
    return tuple(sorted(_terms(split_line(rule))))


def split_line(rule: str) -> list[str]:
    """Return the words of a line as iptables-restore reads it: double quotes alone hold blanks together."""
    return [re.sub(_QUOTED, _unquoted, found[0]) for found in _WORD.finditer(rule)]


def _unquoted(quoted: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1])


def _terms(words: list[str]) -> Iterator[Term]:
    at = 0
    while at < len(words):
        negated = words[at] == "!"
        at += negated
        flag = words[at] if at < len(words) else ""
        at += 1
        values = words[at : at + 1] if _is_short(flag) else _values(words[at:])
        at += len(values)
        flag = _SPELLINGS.get(flag, flag)
        everywhere = flag in ("-i", "-o") and values == ["+"]
        if flag not in _SILENT and not everywhere:
            yield ("!" if negated else "", flag, *(_value(flag, value) for value in values))


def _is_short(flag: str) -> bool:
    """Return whether exactly one value follows, even one that looks like something else: `-i !`, `-o -x`."""
    return len(flag) == 2 and flag.startswith("-")


def _values(words: list[str]) -> list[str]:
    return list(takewhile(lambda word: word != "!" and not word.startswith("-"), words))


def _value(flag: str, text: str) -> str:
    try:
        if flag in _ADDRESS:
            from ipaddress import ip_network  # noqa: PLC0415  # the same

            return str(ip_network(text, strict=False))
        if flag in _NUMBERS:
            return ",".join(_number_or_range(flag, part) for part in text.split(","))
        if flag in _MARKS:
            mark, _, mask = text.partition("/")
            return f"{int(mark, 0):#x}/{int(mask, 0) if mask else _ALL_BITS:#x}"
    except ValueError:
        return text
    return ",".join(sorted(text.split(","))) if flag == "--ctstate" else text


def _number_or_range(flag: str, text: str) -> str:
    low, colon, high = text.partition(":")
    return (
        f"{_number(flag, low or '0')}:{_number(flag, high or '65535')}" if colon else str(_number(flag, low))
    )


def _number(flag: str, text: str) -> int:
    """Return what iptables prints for an id, a port or the name of one.

    Raises:
        ValueError: the name is unknown.
    """
    if text.isdigit():
        return int(text)
    try:
        if flag == "--uid-owner":
            from pwd import getpwnam  # noqa: PLC0415  # mostly it is a number

            return getpwnam(text).pw_uid
        if flag == "--gid-owner":
            from grp import getgrnam  # noqa: PLC0415  # the same

            return getgrnam(text).gr_gid
        import socket  # noqa: PLC0415  # the same

        return socket.getservbyname(text)
    except (KeyError, OSError) as error:
        raise ValueError(text) from error
