"""From configuration to one transaction of nftables: one function a feature, as for iptables.

Pure. Both families share the tables (`inet`); what names an address is made once a family.
"""

from collections.abc import Callable, Iterable
from typing import Final

from pilot_agent.capture.iptables_rules import DNS_PORT, OUTBOUND_MARK
from pilot_agent.capture.options import CaptureOptions

_NAT, _MANGLE, _RAW = "istio-proxy-nat", "istio-proxy-mangle", "istio-proxy-raw"
_HOOK: Final = "{{ type {} hook {} priority {} ; }}"
_CHAINS: Final = {
    _NAT: {
        "prerouting": _HOOK.format("nat", "prerouting", -100),
        "output": _HOOK.format("nat", "output", -100),
        "istio-inbound": "",
        "istio-redirect": "",
        "istio-in-redirect": "",
        "istio-output": "",
        "istio-output-dns": "",
    },
    _MANGLE: {
        "prerouting": _HOOK.format("filter", "prerouting", -150),
        "output": _HOOK.format("route", "output", -150),
        "istio-divert": "",
        "istio-tproxy": "",
        "istio-inbound": "",
        "istio-drop": "",
    },
    _RAW: {
        "prerouting": _HOOK.format("filter", "prerouting", -300),
        "output": _HOOK.format("filter", "output", -300),
        "istio-inbound": "",
        "istio-output-dns": "",
    },
}
TABLES: Final = tuple(_CHAINS)
_MOST_GROUPS: Final = 63
"""A rule of the kernel has at most 128 expressions: two a group, the counter and the verdict."""

_TCP: Final = "meta l4proto tcp"
_IP: Final = {4: "ip", 6: "ip6"}
_SOURCE: Final = {4: "127.0.0.6/32", 6: "::6/128"}
_BITS: Final = {4: 32, 6: 128}


class Transaction:
    """The rules of each table, in the order in which they were made."""

    def __init__(self, options: CaptureOptions) -> None:
        self.families = (4, 6) if options.ipv6 else (4,)
        self.loopback = {4: options.settings.ipv4_loopback_cidr, 6: "::1/128"}
        self._lines: dict[str, list[str]] = {table: [] for table in TABLES}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, table: str, chain: str, rule: str) -> None:
        self._write(table, chain, f"add rule inet {table} {chain} {rule}")

    def insert(self, table: str, chain: str, index: int, rule: str) -> None:
        """Insert before the rule `index`, from 0; behind the last one it is an addition."""
        if self._counts.get((table, chain), 0) <= index:
            self.add(table, chain, rule)
        else:
            self._write(table, chain, f"insert rule inet {table} {chain} index {index} {rule}")

    def lines(self) -> list[str]:
        return [line for table in TABLES for line in self._table(table)]

    def _write(self, table: str, chain: str, line: str) -> None:
        self._lines[table].append(line)
        self._counts[table, chain] = self._counts.get((table, chain), 0) + 1

    def _table(self, table: str) -> list[str]:
        if not self._lines[table]:
            return []
        head = [f"add table inet {table}", f"flush table inet {table}"]
        for chain, hook in _CHAINS[table].items():
            if (table, chain) in self._counts:
                head.append(f"add chain inet {table} {chain} {hook}".rstrip())
        return head + self._lines[table]


def build_transaction(options: CaptureOptions) -> list[str]:
    """Return the lines for `nft -f`; the tables that are named are made anew as a whole."""
    transaction = Transaction(options)
    for feature in FEATURES:
        feature(transaction, options)
    return transaction.lines()


def deletion() -> list[str]:
    """Return the lines that remove our tables; that one is missing is no error."""
    return [f"{verb} table inet {table}" for table in TABLES for verb in ("add", "delete")]


def exclude_interfaces(nft: Transaction, options: CaptureOptions) -> None:
    for interface in options.exclude_interfaces:
        for table in (_NAT, _MANGLE) if options.tproxy else (_NAT,):
            nft.add(table, "prerouting", f"iifname {interface} counter return")
            nft.add(table, "output", f"oifname {interface} counter return")


def virtual_interfaces(nft: Transaction, options: CaptureOptions) -> None:
    for interface in options.virtual_interfaces:
        nft.insert(_NAT, "prerouting", 0, f"iifname {interface} counter return")


def drop_invalid(nft: Transaction, options: CaptureOptions) -> None:
    if options.settings.drop_invalid:
        nft.add(_MANGLE, "prerouting", f"{_TCP} ct state invalid counter jump istio-drop")
        nft.add(_MANGLE, "istio-drop", "counter drop")


def redirection(nft: Transaction, options: CaptureOptions) -> None:
    """The tunnel's port is never captured; the two chains that send to the proxy."""
    settings = options.settings
    nft.add(_NAT, "istio-inbound", f"{_TCP} tcp dport {settings.inbound_tunnel_port} counter return")
    nft.add(_NAT, "istio-redirect", f"{_TCP} counter redirect to :{settings.envoy_port}")
    nft.add(_NAT, "istio-in-redirect", f"{_TCP} counter redirect to :{settings.inbound_capture_port}")


def inbound(nft: Transaction, options: CaptureOptions) -> None:
    if not options.captures_inbound:
        return
    if options.tproxy:
        _tproxy_chains(nft, options)
    table = _MANGLE if options.tproxy else _NAT
    nft.add(table, "prerouting", f"{_TCP} counter jump istio-inbound")
    if options.all_inbound:
        for port in options.inbound_ports_exclude:
            nft.add(table, "istio-inbound", f"{_TCP} tcp dport {port} counter return")
        _to_proxy(nft, options, "")
    for port in options.inbound_ports:
        _to_proxy(nft, options, f"tcp dport {port} ")


def _tproxy_chains(nft: Transaction, options: CaptureOptions) -> None:
    settings = options.settings
    mark, port = settings.inbound_tproxy_mark, settings.inbound_capture_port
    nft.add(_MANGLE, "istio-divert", f"counter meta mark set {mark}")
    nft.add(_MANGLE, "istio-divert", "counter accept")
    for family in nft.families:
        ip = _IP[family]
        not_self = f"{ip} daddr != {nft.loopback[family]}"
        to_proxy = f"tproxy {ip} to :{port} meta mark set {mark} counter accept"
        nft.add(_MANGLE, "istio-tproxy", f"{_TCP} {not_self} {to_proxy}")


def _to_proxy(nft: Transaction, options: CaptureOptions, match: str) -> None:
    if options.tproxy:
        known = f"{_TCP} ct state related,established {match}counter jump istio-divert"
        nft.add(_MANGLE, "istio-inbound", known)
        nft.add(_MANGLE, "istio-inbound", f"{_TCP} {match}counter jump istio-tproxy")
    else:
        nft.add(_NAT, "istio-inbound", f"{_TCP} {match}counter jump istio-in-redirect")


def outbound_exceptions(nft: Transaction, options: CaptureOptions) -> None:
    """What leaves uncaptured by its port, or because the inbound side of the proxy sends it on."""
    nft.add(_NAT, "output", "counter jump istio-output")
    for port in options.outbound_ports_exclude:
        nft.add(_NAT, "istio-output", f"tcp dport {port} counter return")
        nft.add(_NAT, "istio-output", f"udp dport {port} counter return")
    for family in nft.families:
        nft.add(_NAT, "istio-output", f"oifname lo {_IP[family]} saddr {_SOURCE[family]} counter return")


def proxy_users(nft: Transaction, options: CaptureOptions) -> None:
    for uid in options.uids:
        _owner(nft, options, f"skuid {uid}", f"skuid != {uid}", spares_dns=options.dns)


def proxy_groups(nft: Transaction, options: CaptureOptions) -> None:
    for gid in options.gids:
        _owner(nft, options, f"skgid {gid}", f"skgid != {gid}", spares_dns=False)


def _owner(nft: Transaction, options: CaptureOptions, own: str, other: str, *, spares_dns: bool) -> None:
    """The proxy calling its own pod is inbound; others on the loopback and the proxy itself go direct."""
    tunnel = options.settings.inbound_tunnel_port
    ports = f"{{ 53, {tunnel} }}" if spares_dns else tunnel
    for family in nft.families:
        to_self = f"oifname lo {_TCP} {_IP[family]} daddr != {nft.loopback[family]} tcp dport != {ports}"
        nft.add(_NAT, "istio-output", f"{to_self} {own} counter jump istio-in-redirect")
    if not options.includes_loopback:
        but_dns = f"{_TCP} tcp dport != 53 " if options.dns else ""
        nft.add(_NAT, "istio-output", f"oifname lo {but_dns}{other} counter return")
    nft.add(_NAT, "istio-output", f"{own} counter return")


def owner_groups(nft: Transaction, options: CaptureOptions) -> None:
    """Groups whose traffic is not captured; with an include list, everybody who is in none of them."""
    if options.owner_groups is None:
        for group in options.owner_groups_exclude:
            nft.add(_NAT, "istio-output", f"skgid {group} counter return")
        return
    none_of_them = "".join(f"skgid != {group} " for group in options.owner_groups)
    if len(options.owner_groups) > _MOST_GROUPS:
        none_of_them = f"skgid != {{ {', '.join(options.owner_groups)} }} "
    nft.add(_NAT, "istio-output", f"{none_of_them}counter return")


def dns(nft: Transaction, options: CaptureOptions) -> None:
    if not options.dns:
        return
    nft.add(_RAW, "output", "counter jump istio-output-dns")
    if _dns_matches(nft, options, "daddr"):  # a chain without rules is not made
        nft.add(_NAT, "istio-output", "counter jump istio-output-dns")
    for protocol in ("tcp", "udp"):
        # UDP's `dport` implies the protocol; for TCP the reference says it twice.
        bare = f"{_TCP} tcp dport 53" if protocol == "tcp" else "udp dport 53"
        for at in _dns_matches(nft, options, "daddr"):
            match = f"{at} {protocol} dport 53" if at else bare
            nft.add(_NAT, "istio-output-dns", f"{match} counter redirect to :{DNS_PORT}")
    _dns_zones(nft, options)


def _dns_zones(nft: Transaction, options: CaptureOptions) -> None:
    """A query and its answer must not meet the conntrack entry of the proxy's own query upstream."""
    owners = [f"skuid {uid}" for uid in options.uids] + [f"skgid {gid}" for gid in options.gids]
    for owner in owners:
        nft.add(_RAW, "istio-output-dns", f"udp dport 53 meta {owner} counter ct zone set 1")
        nft.add(_RAW, "istio-output-dns", f"udp sport {DNS_PORT} meta {owner} counter ct zone set 2")
    if _dns_matches(nft, options, "saddr"):
        nft.add(_RAW, "prerouting", "counter jump istio-inbound")
    servers = zip(_dns_matches(nft, options, "daddr"), _dns_matches(nft, options, "saddr"), strict=True)
    for to, back in servers:
        query, answer = _spaced("udp dport 53", to), _spaced("udp sport 53", back)
        nft.add(_RAW, "istio-output-dns", f"{query} counter ct zone set 2")
        nft.add(_RAW, "istio-inbound", f"{answer} counter ct zone set 1")


def _dns_matches(nft: Transaction, options: CaptureOptions, side: str) -> list[str]:
    """Return what matches each server; one empty text for all of them."""
    if options.settings.capture_all_dns:
        return [""]
    servers = {4: options.machine.dns_servers_v4, 6: options.machine.dns_servers_v6}
    return [
        f"{_IP[family]} {side} {address}/{_BITS[family]}"
        for family in nft.families
        for address in servers[family]
    ]


def _spaced(*words: str) -> str:
    return " ".join(filter(None, words))


def loopback(nft: Transaction, _options: CaptureOptions) -> None:
    for family in nft.families:
        nft.add(_NAT, "istio-output", f"{_IP[family]} daddr {nft.loopback[family]} counter return")


def excluded_prefixes(nft: Transaction, options: CaptureOptions) -> None:
    for family in nft.families:
        for prefix in options.prefixes_exclude:
            if prefix.family == family:
                nft.add(_NAT, "istio-output", f"{_IP[family]} daddr {prefix.text} counter return")


def outbound_ports(nft: Transaction, options: CaptureOptions) -> None:
    for port in options.outbound_ports:
        nft.add(_NAT, "istio-output", f"tcp dport {port} counter jump istio-redirect")


def outbound_prefixes(nft: Transaction, options: CaptureOptions) -> None:
    if options.all_outbound:
        nft.add(_NAT, "istio-output", "counter jump istio-redirect")
        for interface in options.virtual_interfaces:
            nft.insert(_NAT, "prerouting", 0, f"iifname {interface} counter jump istio-redirect")
    for family in nft.families:
        for prefix in options.prefixes:
            if prefix.family == family:
                _outbound_prefix(nft, options, f"{_IP[family]} daddr {prefix.text}")


def _outbound_prefix(nft: Transaction, options: CaptureOptions, match: str) -> None:
    for interface in options.virtual_interfaces:
        rule = f"iifname {interface} {match} counter jump istio-redirect"
        nft.insert(_NAT, "prerouting", 0, rule)
    nft.add(_NAT, "istio-output", f"{match} counter jump istio-redirect")


def tproxy_marks(nft: Transaction, options: CaptureOptions) -> None:
    """Answers of the application to a captured connection take the way back through the proxy."""
    if not options.tproxy:
        return
    mark = options.settings.inbound_tproxy_mark
    nft.add(_MANGLE, "prerouting", f"{_TCP} mark {mark} counter ct mark set mark")
    nft.add(_MANGLE, "output", f"oifname lo {_TCP} mark {mark} counter return")
    owners = [f"skuid {uid}" for uid in options.uids] + [f"skgid {gid}" for gid in options.gids]
    for owner in owners:
        for family in nft.families:
            to_self = f"oifname lo {_TCP} {_IP[family]} daddr != {nft.loopback[family]} {owner}"
            nft.add(_MANGLE, "output", f"{to_self} counter meta mark set {OUTBOUND_MARK}")
    nft.add(_MANGLE, "output", f"{_TCP} ct mark {mark} counter meta mark set ct mark")
    nft.insert(_MANGLE, "istio-inbound", 0, f"{_TCP} mark {mark} counter return")
    for family in nft.families:
        from_proxy = f"iifname lo {_TCP} {_IP[family]} saddr {_SOURCE[family]}"
        nft.insert(_MANGLE, "istio-inbound", 1, f"{from_proxy} counter return")
    nft.insert(_MANGLE, "istio-inbound", 2, f"iifname lo {_TCP} mark != {OUTBOUND_MARK} counter return")


Feature = Callable[[Transaction, CaptureOptions], None]

FEATURES: Final[Iterable[Feature]] = (
    exclude_interfaces,
    virtual_interfaces,
    drop_invalid,
    redirection,
    inbound,
    outbound_exceptions,
    proxy_users,
    proxy_groups,
    owner_groups,
    dns,
    loopback,
    excluded_prefixes,
    outbound_ports,
    outbound_prefixes,
    tproxy_marks,
)
"""The order counts: within a chain, the first rule that matches decides."""
