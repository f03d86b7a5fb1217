"""The flags of `istio-iptables` and where else their values come from.

Order: command line, the extra variable, the variable, the default. A variable that does not parse counts as
not set, without a word; one that is set to nothing counts as set.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from pilot_agent.cli.command import Invocation
from pilot_agent.cli.flags import Flag, Value, Values, parse_value
from pilot_agent.cli.global_flags import configure_logging

if TYPE_CHECKING:
    from pilot_agent.capture.options import CaptureSettings
    from pilot_agent.cli.flags import Kind


class CaptureFlag(NamedTuple):
    """A flag with the member of CaptureSettings that it fills."""

    member: str
    name: str
    shorthand: str
    kind: "Kind"
    default: Value
    usage: str
    variable: str | None = ""  # "": the name in capitals; None: no variable
    extra: str = ""

    @property
    def flag(self) -> Flag:
        return Flag(self.name, self.kind, self.default, self.usage, self.shorthand)

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the variables in order of precedence."""
        own = self.name.upper().replace("-", "_") if self.variable == "" else self.variable
        return tuple(name for name in (self.extra, own) if name)


_ROWS: Final = (
    CaptureFlag(
        "envoy_port",
        "envoy-port",
        "p",
        "string",
        "15001",
        "Port to which outbound TCP is sent",
        variable=None,
    ),
    CaptureFlag(
        "inbound_capture_port",
        "inbound-capture-port",
        "z",
        "string",
        "15006",
        "Port to which inbound TCP is sent",
    ),
    CaptureFlag(
        "inbound_tunnel_port",
        "inbound-tunnel-port",
        "e",
        "string",
        "15008",
        "Port of inbound HBONE, never captured",
    ),
    CaptureFlag(
        "proxy_uid",
        "proxy-uid",
        "u",
        "string",
        "",
        "Comma-separated uids whose traffic is not captured (default: that of the user ENVOY_USER, "
        "else 1337)",
    ),
    CaptureFlag(
        "proxy_gid",
        "proxy-gid",
        "g",
        "string",
        "",
        "Comma-separated gids whose traffic is not captured (default: the value of --proxy-uid)",
    ),
    CaptureFlag(
        "inbound_interception_mode",
        "istio-inbound-interception-mode",
        "m",
        "string",
        "",
        "How inbound TCP reaches the proxy: REDIRECT or TPROXY",
    ),
    CaptureFlag(
        "inbound_tproxy_mark",
        "istio-inbound-tproxy-mark",
        "t",
        "string",
        "1337",
        "Mark of packets that TPROXY delivers",
    ),
    CaptureFlag(
        "inbound_tproxy_route_table",
        "istio-inbound-tproxy-route-table",
        "r",
        "string",
        "133",
        "Routing table for marked packets",
    ),
    CaptureFlag(
        "inbound_ports",
        "istio-inbound-ports",
        "b",
        "string",
        "",
        "Comma-separated inbound ports to capture, * for all; empty: none",
    ),
    CaptureFlag(
        "local_exclude_ports",
        "istio-local-exclude-ports",
        "d",
        "string",
        "",
        "Comma-separated inbound ports not to capture, with --istio-inbound-ports=*",
    ),
    CaptureFlag(
        "service_cidr",
        "istio-service-cidr",
        "i",
        "string",
        "",
        "Comma-separated prefixes whose outbound traffic is captured, * for all; empty: none",
    ),
    CaptureFlag(
        "service_exclude_cidr",
        "istio-service-exclude-cidr",
        "x",
        "string",
        "",
        "Comma-separated prefixes whose outbound traffic is not captured",
    ),
    CaptureFlag(
        "outbound_ports",
        "istio-outbound-ports",
        "q",
        "string",
        "",
        "Comma-separated outbound ports that are captured whatever the address",
    ),
    CaptureFlag(
        "local_outbound_ports_exclude",
        "istio-local-outbound-ports-exclude",
        "o",
        "string",
        "",
        "Comma-separated outbound ports that are never captured",
    ),
    CaptureFlag(
        "exclude_interfaces",
        "istio-exclude-interfaces",
        "c",
        "string",
        "",
        "Comma-separated interfaces that are left alone",
    ),
    CaptureFlag(
        "kube_virt_interfaces",
        "kube-virt-interfaces",
        "k",
        "string",
        "",
        "Comma-separated virtual interfaces whose inbound traffic counts as outbound",
    ),
    CaptureFlag(
        "redirect_dns",
        "redirect-dns",
        "",
        "bool",
        False,
        "Capture queries to the servers of resolv.conf",
        extra="ISTIO_META_DNS_CAPTURE",
    ),
    CaptureFlag(
        "capture_all_dns",
        "capture-all-dns",
        "",
        "bool",
        False,
        "With --redirect-dns: capture queries to any server",
    ),
    CaptureFlag(
        "drop_invalid",
        "drop-invalid",
        "",
        "bool",
        False,
        "Drop packets in conntrack's state INVALID",
        extra="INVALID_DROP",
    ),
    CaptureFlag(
        "dual_stack",
        "dual-stack",
        "",
        "bool",
        False,
        "Rules for IPv6 too if any local address is of IPv6",
        extra="ISTIO_DUAL_STACK",
    ),
    CaptureFlag("dry_run", "dry-run", "n", "bool", False, "Show what would be done, and do nothing"),
    CaptureFlag("skip_rule_apply", "skip-rule-apply", "", "bool", False, "Make no rules and no routes"),
    CaptureFlag(
        "run_validation", "run-validation", "", "bool", False, "Try with a connection whether capture works"
    ),
    CaptureFlag(
        "iptables_probe_port",
        "iptables-probe-port",
        "",
        "uint16",
        15002,
        "Port to which validation connects",
    ),
    CaptureFlag("probe_timeout_s", "probe-timeout", "", "duration", "5s", "How long validation tries"),
    CaptureFlag(
        "cni_mode",
        "cni-mode",
        "",
        "bool",
        False,
        "Run iptables without name look-ups and with the pod's lock",
    ),
    CaptureFlag(
        "network_namespace",
        "network-namespace",
        "",
        "string",
        "",
        "The pod's network namespace: the lock file in CNI mode",
    ),
    CaptureFlag(
        "reconcile", "reconcile", "", "bool", False, "Replace rules of ours that are not as they should be"
    ),
    CaptureFlag("cleanup_only", "cleanup-only", "", "bool", False, "Remove the rules, and make none"),
    CaptureFlag(
        "force_apply", "force-apply", "", "bool", False, "Make the rules even if they are in place already"
    ),
    CaptureFlag("native_nftables", "native-nftables", "", "bool", False, "Use nft instead of iptables"),
    CaptureFlag(
        "force_iptables_binary",
        "force-iptables-binary",
        "",
        "string",
        "",
        "Use this iptables: legacy or nft; empty: what is in use",
    ),
)

_VARIABLES_ALONE: Final = {
    "owner_groups": "ISTIO_OUTBOUND_OWNER_GROUPS",
    "owner_groups_exclude": "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
    "ipv4_loopback_cidr": "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
}

_OLD: Final = "No effect; accepted for older releases"

FLAGS: Final = (
    *(row.flag for row in _ROWS),
    Flag("restore-format", "bool", True, _OLD, "f"),
    Flag("iptables-trace-logging", "bool", False, _OLD),
    Flag("output-paths", "string", "", _OLD),
    Flag("iptables-version", "string", "", _OLD),
)

CLEAN_FLAGS: Final = tuple(
    row.flag
    for row in _ROWS
    if row.member
    in (
        "dry_run",
        "proxy_uid",
        "proxy_gid",
        "redirect_dns",
        "capture_all_dns",
        "inbound_interception_mode",
        "inbound_tproxy_mark",
    )
)
"""Those of `istio-clean-iptables`, all releases together."""


def run(invocation: Invocation) -> int:
    """Set capture up, or clean it, and return the exit status."""
    configure_logging(invocation.values)
    from pilot_agent.capture.session import run as run_session  # noqa: PLC0415  # `help` needs only the flags

    return run_session(settings_from(invocation.values, os.environ), os.environ)


def run_clean(invocation: Invocation) -> int:
    """Remove all rules of ours and return the exit status."""
    configure_logging(invocation.values)
    from pilot_agent.capture.session import run_clean as run_session  # noqa: PLC0415  # see above

    return run_session(settings_from(invocation.values, os.environ), os.environ)


def settings_from(values: Values, variables: Mapping[str, str]) -> "CaptureSettings":
    """Return the settings that the command line and the environment give."""
    from pilot_agent.capture.options import CaptureSettings  # noqa: PLC0415  # see above
    from pilot_agent.environment import duration_s  # noqa: PLC0415  # imports re

    members: dict[str, object] = {row.member: _value(row, values, variables) for row in _ROWS}
    members["probe_timeout_s"] = duration_s(str(members["probe_timeout_s"]))
    for member, name in _VARIABLES_ALONE.items():
        if name in variables:
            members[member] = variables[name]
    return CaptureSettings(**members)  # type: ignore[arg-type]  # each row's kind is its member's type


def _value(row: CaptureFlag, values: Values, variables: Mapping[str, str]) -> Value:
    if values.knows(row.name) and values.given(row.name):
        return values[row.name]
    for name in row.variables:
        try:
            return parse_value(row.kind, variables[name])
        except (KeyError, ValueError):
            continue
    return row.default
