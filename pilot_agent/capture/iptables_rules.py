"""From configuration to the rules of iptables: one function a feature, called in the order of FEATURES.

Pure. The words of each rule are the reference's, to the letter: what is in the kernel can then be compared
with what another version of the agent made.
"""

from collections.abc import Callable, Iterable
from typing import Final

from pilot_agent.capture.options import CaptureOptions
from pilot_agent.capture.rules import Rule, RuleSet

DNS_PORT: Final = "15053"
OUTBOUND_MARK: Final = "1338"
"""Marks what the proxy sends to its own pod, which must be captured inbound."""


def build_rules(options: CaptureOptions) -> list[Rule]:
    """Return all rules in the order in which they are made, both families mixed."""
    rules = RuleSet(ipv6=options.ipv6, loopback=options.settings.ipv4_loopback_cidr)
    for feature in FEATURES:
        feature(rules, options)
    return rules.rules


def exclude_interfaces(rules: RuleSet, options: CaptureOptions) -> None:
    for interface in options.exclude_interfaces:
        for table in ("nat", "mangle") if options.tproxy else ("nat",):
            rules.append(table, "PREROUTING", "-i {interface} -j RETURN", interface=interface)
            rules.append(table, "OUTPUT", "-o {interface} -j RETURN", interface=interface)


def virtual_interfaces(rules: RuleSet, options: CaptureOptions) -> None:
    for interface in options.virtual_interfaces:
        rules.insert("nat", "PREROUTING", 1, "-i {interface} -j RETURN", interface=interface)


def drop_invalid(rules: RuleSet, options: CaptureOptions) -> None:
    if options.settings.drop_invalid:
        rules.append("mangle", "PREROUTING", "-m conntrack --ctstate INVALID -j ISTIO_DROP")
        rules.append("mangle", "ISTIO_DROP", "-j DROP")


def redirection(rules: RuleSet, options: CaptureOptions) -> None:
    """The tunnel's port is never captured; the two chains that send to the proxy."""
    settings = options.settings
    tunnel, outbound, inbound = (
        settings.inbound_tunnel_port,
        settings.envoy_port,
        settings.inbound_capture_port,
    )
    rules.append("nat", "ISTIO_INBOUND", "-p tcp --dport {port} -j RETURN", port=tunnel)
    rules.append("nat", "ISTIO_REDIRECT", "-p tcp -j REDIRECT --to-ports {port}", port=outbound)
    rules.append("nat", "ISTIO_IN_REDIRECT", "-p tcp -j REDIRECT --to-ports {port}", port=inbound)


def inbound(rules: RuleSet, options: CaptureOptions) -> None:
    if not options.captures_inbound:
        return
    if options.tproxy:
        _tproxy_chains(rules, options)
    table = "mangle" if options.tproxy else "nat"
    rules.append(table, "PREROUTING", "-p tcp -j ISTIO_INBOUND")
    if options.all_inbound:
        for port in options.inbound_ports_exclude:
            rules.append(table, "ISTIO_INBOUND", "-p tcp --dport {port} -j RETURN", port=port)
        _to_proxy(rules, options, "-p tcp")
    for port in options.inbound_ports:
        _to_proxy(rules, options, "-p tcp --dport {port}", port=port)


def _tproxy_chains(rules: RuleSet, options: CaptureOptions) -> None:
    settings = options.settings
    mark, port = settings.inbound_tproxy_mark, settings.inbound_capture_port
    rules.append("mangle", "ISTIO_DIVERT", "-j MARK --set-mark {mark}", mark=mark)
    rules.append("mangle", "ISTIO_DIVERT", "-j ACCEPT")
    rules.append(
        "mangle",
        "ISTIO_TPROXY",
        "! -d {loopback} -p tcp -j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}",
        mark=mark,
        port=port,
    )


def _to_proxy(rules: RuleSet, options: CaptureOptions, match: str, **values: str) -> None:
    if options.tproxy:
        known = f"{match} -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT"
        rules.append("mangle", "ISTIO_INBOUND", known, family=0, **values)
        rules.append("mangle", "ISTIO_INBOUND", f"{match} -j ISTIO_TPROXY", family=0, **values)
    else:
        rules.append("nat", "ISTIO_INBOUND", f"{match} -j ISTIO_IN_REDIRECT", family=0, **values)


def outbound_exceptions(rules: RuleSet, options: CaptureOptions) -> None:
    """What leaves uncaptured by its port, or because the inbound side of the proxy sends it on."""
    rules.append("nat", "OUTPUT", "-j ISTIO_OUTPUT")
    for port in options.outbound_ports_exclude:
        rules.append("nat", "ISTIO_OUTPUT", "-p tcp --dport {port} -j RETURN", port=port)
        rules.append("nat", "ISTIO_OUTPUT", "-p udp --dport {port} -j RETURN", port=port)
    rules.append("nat", "ISTIO_OUTPUT", "-o lo -s {source} -j RETURN")


def proxy_users(rules: RuleSet, options: CaptureOptions) -> None:
    for uid in options.uids:
        _owner(rules, options, "uid", uid, spares_dns=options.dns)


def proxy_groups(rules: RuleSet, options: CaptureOptions) -> None:
    for gid in options.gids:
        _owner(rules, options, "gid", gid, spares_dns=False)


def _owner(rules: RuleSet, options: CaptureOptions, kind: str, owner: str, *, spares_dns: bool) -> None:
    """The proxy calling its own pod is inbound; others on the loopback and the proxy itself go direct."""
    tunnel = options.settings.inbound_tunnel_port
    to_self = "-m multiport ! --dports 53,{tunnel}" if spares_dns else "! --dport {tunnel}"
    rules.append(
        "nat",
        "ISTIO_OUTPUT",
        f"-o lo ! -d {{loopback}} -p tcp {to_self} -m owner --{kind}-owner {{owner}} -j ISTIO_IN_REDIRECT",
        tunnel=tunnel,
        owner=owner,
    )
    if not options.includes_loopback:
        but_dns = "-p tcp ! --dport 53 " if options.dns else ""
        others = f"-o lo {but_dns}-m owner ! --{kind}-owner {{owner}} -j RETURN"
        rules.append("nat", "ISTIO_OUTPUT", others, owner=owner)
    rules.append("nat", "ISTIO_OUTPUT", f"-m owner --{kind}-owner {{owner}} -j RETURN", owner=owner)


def owner_groups(rules: RuleSet, options: CaptureOptions) -> None:
    """Groups whose traffic is not captured; with an include list, everybody who is in none of them."""
    if options.owner_groups is None:
        for group in options.owner_groups_exclude:
            rules.append("nat", "ISTIO_OUTPUT", "-m owner --gid-owner {group} -j RETURN", group=group)
        return
    values = {f"group{number}": group for number, group in enumerate(options.owner_groups)}
    none_of_them = "".join(f"-m owner ! --gid-owner {{{name}}} " for name in values)
    rules.append("nat", "ISTIO_OUTPUT", f"{none_of_them}-j RETURN", family=0, **values)


def dns(rules: RuleSet, options: CaptureOptions) -> None:
    if not options.dns:
        return
    rules.append("raw", "OUTPUT", "-j ISTIO_OUTPUT_DNS")
    servers = _dns_servers(options)
    for family in servers:
        rules.append("nat", "ISTIO_OUTPUT", "-j ISTIO_OUTPUT_DNS", family=family)
    for protocol, option in (("tcp", "--to-ports"), ("udp", "--to-port")):
        for family, addresses in servers.items():
            for address in addresses:
                rules.append(
                    "nat",
                    "ISTIO_OUTPUT_DNS",
                    f"-p {protocol} --dport 53 {_at('-d', address)} -j REDIRECT {option} {DNS_PORT}",
                    family=family,
                )
    _dns_zones(rules, options)


def _dns_zones(rules: RuleSet, options: CaptureOptions) -> None:
    """A query and its answer must not meet the conntrack entry of the proxy's own query upstream."""
    owners = [("uid", uid) for uid in options.uids] + [("gid", gid) for gid in options.gids]
    for kind, owner in owners:
        by = f"-m owner --{kind}-owner {{owner}} -j CT --zone"
        rules.append("raw", "ISTIO_OUTPUT_DNS", f"-p udp --dport 53 {by} 1", owner=owner)
        rules.append("raw", "ISTIO_OUTPUT_DNS", f"-p udp --sport {DNS_PORT} {by} 2", owner=owner)
    for family, addresses in _dns_servers(options).items():
        rules.append("raw", "PREROUTING", "-j ISTIO_INBOUND", family=family)
        for address in addresses:
            to, back = _at("-d", address), _at("-s", address)
            query, answer = (
                f"-p udp --dport 53 {to} -j CT --zone 2",
                f"-p udp --sport 53 {back} -j CT --zone 1",
            )
            rules.append("raw", "ISTIO_OUTPUT_DNS", query, family=family)
            rules.append("raw", "ISTIO_INBOUND", answer, family=family)


def _dns_servers(options: CaptureOptions) -> dict[int, tuple[str, ...]]:
    """Return family → servers, of families that have any; the empty text stands for every server."""
    if options.settings.capture_all_dns:
        return {4: ("",), 6: ("",)}
    servers = {4: options.machine.dns_servers_v4, 6: options.machine.dns_servers_v6}
    return {family: addresses for family, addresses in servers.items() if addresses}


def _at(flag: str, address: str) -> str:
    return f"{flag} {address}/{{any_bits}}" if address else ""


def loopback(rules: RuleSet, _options: CaptureOptions) -> None:
    rules.append("nat", "ISTIO_OUTPUT", "-d {loopback} -j RETURN")


def excluded_prefixes(rules: RuleSet, options: CaptureOptions) -> None:
    for prefix in sorted(options.prefixes_exclude, key=lambda one: one.family):
        rules.append("nat", "ISTIO_OUTPUT", f"-d {prefix.text} -j RETURN", family=prefix.family)


def outbound_ports(rules: RuleSet, options: CaptureOptions) -> None:
    for port in options.outbound_ports:
        rules.append("nat", "ISTIO_OUTPUT", "-p tcp --dport {port} -j ISTIO_REDIRECT", port=port)


def outbound_prefixes(rules: RuleSet, options: CaptureOptions) -> None:
    if options.all_outbound:
        rules.append("nat", "ISTIO_OUTPUT", "-j ISTIO_REDIRECT")
        for interface in options.virtual_interfaces:
            rules.insert("nat", "PREROUTING", 1, "-i {interface} -j ISTIO_REDIRECT", interface=interface)
    for prefix in sorted(options.prefixes, key=lambda one: one.family):
        to, family = f"-d {prefix.text} -j ISTIO_REDIRECT", prefix.family
        for interface in options.virtual_interfaces:
            rules.insert("nat", "PREROUTING", 1, f"-i {{interface}} {to}", family=family, interface=interface)
        rules.append("nat", "ISTIO_OUTPUT", to, family=family)


def tproxy_marks(rules: RuleSet, options: CaptureOptions) -> None:
    """Answers of the application to a captured connection take the way back through the proxy."""
    if not options.tproxy:
        return
    mark = options.settings.inbound_tproxy_mark
    marked = "-p tcp -m mark --mark {mark}"
    rules.append("mangle", "PREROUTING", f"{marked} -j CONNMARK --save-mark", mark=mark)
    rules.append("mangle", "OUTPUT", "-p tcp -o lo -m mark --mark {mark} -j RETURN", mark=mark)
    owners = [("uid", uid) for uid in options.uids] + [("gid", gid) for gid in options.gids]
    for kind, owner in owners:
        to_self = f"! -d {{loopback}} -p tcp -o lo -m owner --{kind}-owner {{owner}}"
        rules.append("mangle", "OUTPUT", f"{to_self} -j MARK --set-mark {OUTBOUND_MARK}", owner=owner)
    rules.append("mangle", "OUTPUT", "-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark", mark=mark)
    rules.insert("mangle", "ISTIO_INBOUND", 1, f"{marked} -j RETURN", mark=mark)
    rules.insert("mangle", "ISTIO_INBOUND", 2, "-p tcp -s {source} -i lo -j RETURN")
    rules.insert("mangle", "ISTIO_INBOUND", 3, f"-p tcp -i lo -m mark ! --mark {OUTBOUND_MARK} -j RETURN")


Feature = Callable[[RuleSet, CaptureOptions], None]

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
