"""Which rules in a built-in chain were made by any Istio, with any flags, today's or 1.12's.

A jump to one of our chains is ours for certain. The other rules carry no mark, so they are known by their
shape, and only in a table that holds, or held a moment ago, a chain of ours: the same words in a table
without one are somebody else's.
"""

from typing import Final

from pilot_agent.capture.rules import BUILT_IN, OURS
from pilot_agent.capture.saved import Canonical, Chain, Saved, Table, canonical_line, our_chains

_OUTBOUND_MARK: Final = ("", "--set-xmark", "0x53a/0xffffffff")
_TCP, _UDP, _LO_OUT = ("", "-p", "tcp"), ("", "-p", "udp"), ("", "-o", "lo")
_RETURN: Final = ("", "-j", "RETURN")
_TO_PROXY: Final = f"{OURS}REDIRECT"
_TO_DNS_PROXY: Final = ("", "--to-ports", "15053")
_ZONES: Final = {("", "--zone", "1"), ("", "--zone", "2")}

Found = tuple[str, str, int, str]
"""Table, chain, place in it (from 1), rule as printed."""


def our_rules(saved: Saved, planned: frozenset[tuple[str, str, Canonical]] = frozenset()) -> list[Found]:
    """Return the rules in built-in chains that are ours.

    `planned` (table, chain, rule) are what the current configuration would make; they are ours in any case.
    """
    istio_is_here = any(map(our_chains, saved.values()))
    found: list[Found] = []
    for name, table in saved.items():
        for chain in BUILT_IN & table.keys():
            for place, rule in enumerate(table[chain].rules, 1):
                form = canonical_line(rule)
                known = _target(form).startswith(OURS) or (name, chain, form) in planned
                if known or (istio_is_here and _has_our_shape(name, chain, form, table)):
                    found.append((name, chain, place, rule))
    return found


def marks(saved: Saved) -> set[int]:
    """Return the marks that our chains set or deliver with."""
    found = set()
    for name, chain in saved.get("mangle", {}).items():
        for term in (term for rule in chain.rules for term in canonical_line(rule)):
            if name.startswith(OURS) and term[1] in ("--set-xmark", "--tproxy-mark"):
                found.add(int(term[2].partition("/")[0], 16))
    return found


def _has_our_shape(table_name: str, chain: str, rule: Canonical, table: Table) -> bool:
    match table_name, chain:
        case "mangle", "PREROUTING" | "OUTPUT" if _is_tproxy_mark(chain, rule):
            return True
        case "nat" | "raw", "PREROUTING" | "OUTPUT" if _is_old_dns(table_name, rule):
            return True
        case "nat" | "mangle", "PREROUTING" | "OUTPUT":
            return _is_interface_exception(table_name, chain, rule, table)
    return False


def _is_tproxy_mark(chain: str, rule: Canonical) -> bool:
    flags = {term[1] for term in rule}
    if _TCP not in rule:
        return False
    if chain == "PREROUTING":
        return flags == {"-p", "--mark", "-j", "--save-mark"}
    if flags == {"-p", "--mark", "-j", "--restore-mark"}:
        return True
    if _LO_OUT in rule and _RETURN in rule:
        return flags == {"-p", "-o", "--mark", "-j"}
    return _LO_OUT in rule and _OUTBOUND_MARK in rule and flags & {"--uid-owner", "--gid-owner"} != set()


def _is_old_dns(table: str, rule: Canonical) -> bool:
    """The rules of 1.12, which stood in the built-in chains themselves."""
    if _UDP not in rule or not {("", "--dport", "53"), ("", "--sport", "53"), ("", "--sport", "15053")} & {
        *rule
    }:
        return False
    if table == "raw":
        return _target(rule) == "CT" and bool(_ZONES & {*rule})
    by_owner = any(term[1] in ("--uid-owner", "--gid-owner") for term in rule)
    return _TO_DNS_PROXY in rule or (_RETURN in rule and by_owner)


def _is_interface_exception(table_name: str, chain: str, rule: Canonical, table: Table) -> bool:
    """`-i IF -j RETURN`: with its twin for the way out or (KubeVirt) to the proxy, or the first of all."""
    if _RETURN not in rule:
        return False
    own_flag, twin_flag = ("-i", "-o") if chain == "PREROUTING" else ("-o", "-i")
    interface = {term[2:] for term in rule if term[:2] == ("", own_flag)}  # none: every interface
    if len(rule) != 1 + len(interface):
        return False
    twin = tuple(sorted([_RETURN, *(("", twin_flag, *name) for name in interface)]))
    twin_chain = "OUTPUT" if chain == "PREROUTING" else "PREROUTING"
    if twin in map(canonical_line, table.get(twin_chain, Chain()).rules):
        return True
    if table_name != "nat" or chain != "PREROUTING":
        return False
    virtual = _virtual_interfaces(table["PREROUTING"])
    return frozenset(interface) in virtual if virtual else rule in _leading(table["PREROUTING"])


def _virtual_interfaces(chain: Chain) -> set[frozenset[tuple[str, ...]]]:
    """Return the interface of each rule that sends incoming traffic to the proxy as if it were going out."""
    rules = [rule for rule in map(canonical_line, chain.rules) if _target(rule) == _TO_PROXY]
    return {frozenset(term[2:] for term in rule if term[:2] == ("", "-i")) for rule in rules}


def _leading(chain: Chain) -> list[Canonical]:
    """Return the rules at the head of a chain that match an incoming interface and jump to nowhere else."""
    found = []
    for rule in map(canonical_line, chain.rules):
        if {term[1] for term in rule} - {"-i", "-d", "-j"} or not _target(rule).startswith(("RETURN", OURS)):
            break
        found.append(rule)
    return found


def _target(rule: Canonical) -> str:
    return next((term[2] for term in rule if term[1] == "-j" and len(term) > 2), "")
