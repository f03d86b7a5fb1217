"""The fixed list of commands with which releases up to 1.24 removed their rules.

A dry run of `istio-clean-iptables` shows it; what is really removed is what is found (`cleaning`).
"""

from collections.abc import Iterator

from pilot_agent.capture.backend import NAMES
from pilot_agent.capture.options import CaptureSettings, Machine, split

_JUMPS = (
    "-t nat -D PREROUTING -p tcp -j ISTIO_INBOUND",
    "-t mangle -D PREROUTING -p tcp -j ISTIO_INBOUND",
    "-t nat -D OUTPUT -p tcp -j ISTIO_OUTPUT",
)
_CHAINS = (
    ("nat", "ISTIO_OUTPUT"),
    ("nat", "ISTIO_INBOUND"),
    ("mangle", "ISTIO_INBOUND"),
    ("mangle", "ISTIO_DIVERT"),
    ("mangle", "ISTIO_TPROXY"),
    ("nat", "ISTIO_REDIRECT"),
    ("nat", "ISTIO_IN_REDIRECT"),
)


def old_cleanup_commands(settings: CaptureSettings, machine: Machine) -> list[str]:
    """Return the commands as lines, those of IPv4 and then the same of IPv6."""
    lines = [*_JUMPS, *(_dns(settings, machine) if settings.redirect_dns else ())]
    lines += [f"-t {table} {flag} {chain}" for table, chain in _CHAINS for flag in ("-F", "-X")]
    return [f"{name} {line}" for name in NAMES.values() for line in lines] + [
        f"{name}-save" for name in NAMES.values()
    ]


def _dns(settings: CaptureSettings, machine: Machine) -> Iterator[str]:
    uids = split(settings.proxy_uid or machine.envoy_user_id)
    gids = split(settings.proxy_gid or settings.proxy_uid or machine.envoy_user_id)
    owners = [*(f"--uid-owner {uid}" for uid in uids), *(f"--gid-owner {gid}" for gid in gids)]
    servers = [f"-d {server}/32 " for server in machine.dns_servers_v4]
    servers += [f"-d {server}/128 " for server in machine.dns_servers_v6]
    # The reference deletes a rule that names no address once for each family, with both commands.
    places = ["", ""] if settings.capture_all_dns else servers
    for owner in owners:
        yield from _each(f"-t nat -D OUTPUT -p udp --dport 53 -m owner {owner} -j RETURN")
    for place in places:
        yield f"-t nat -D OUTPUT -p udp --dport 53 {place}-j REDIRECT --to-port 15053"
    for owner in owners:
        yield from _each(f"-t raw -D OUTPUT -p udp --dport 53 -m owner {owner} -j CT --zone 1")
        yield from _each(f"-t raw -D OUTPUT -p udp --sport 15053 -m owner {owner} -j CT --zone 2")
    for place in dict.fromkeys(places):
        times = places.count(place)
        yield from [f"-t raw -D OUTPUT -p udp --dport 53 {place}-j CT --zone 2"] * times
        yield from [f"-t raw -D PREROUTING -p udp --sport 53 {place}-j CT --zone 1"] * times


def _each(line: str) -> tuple[str, str]:
    return line, line
