"""What is to be captured and how the rules are put in place: one object, made from flags and environment.

`CaptureSettings` is the text that flags and variables gave; `CaptureOptions` adds what the machine knows
(addresses, DNS servers, the proxy's uid) and has every list split and checked.
"""

from typing import Final, NamedTuple

from pilot_agent.capture.errors import ConfigurationError
from pilot_agent.capture.prefixes import Prefix, check_loopback, parse_prefix
from pilot_agent.gotext import quote

WILDCARD: Final = "*"
MAX_OWNER_GROUPS: Final = 64
"""As many as the reference takes."""


FLAG_OF: Final = {
    "envoy_port": "--envoy-port",
    "inbound_capture_port": "--inbound-capture-port",
    "inbound_tunnel_port": "--inbound-tunnel-port",
    "proxy_uid": "--proxy-uid",
    "proxy_gid": "--proxy-gid",
    "inbound_tproxy_mark": "--istio-inbound-tproxy-mark",
    "inbound_tproxy_route_table": "--istio-inbound-tproxy-route-table",
    "inbound_ports": "--istio-inbound-ports",
    "local_exclude_ports": "--istio-local-exclude-ports",
    "outbound_ports": "--istio-outbound-ports",
    "local_outbound_ports_exclude": "--istio-local-outbound-ports-exclude",
    "exclude_interfaces": "--istio-exclude-interfaces",
    "kube_virt_interfaces": "--kube-virt-interfaces",
    "owner_groups": "ISTIO_OUTBOUND_OWNER_GROUPS",
    "owner_groups_exclude": "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
}
"""What the user calls the settings whose values are written into rules as they are."""

_RESTORE_SYNTAX: Final = frozenset('"')
_NFT_SYNTAX: Final = frozenset(";{}\"'#\\")


class CaptureSettings(NamedTuple):
    """The values of the flags, texts as they were typed."""

    envoy_port: str = "15001"
    inbound_capture_port: str = "15006"
    inbound_tunnel_port: str = "15008"
    proxy_uid: str = ""
    proxy_gid: str = ""
    inbound_interception_mode: str = ""
    inbound_tproxy_mark: str = "1337"
    inbound_tproxy_route_table: str = "133"
    inbound_ports: str = ""
    local_exclude_ports: str = ""
    service_cidr: str = ""
    service_exclude_cidr: str = ""
    outbound_ports: str = ""
    local_outbound_ports_exclude: str = ""
    exclude_interfaces: str = ""
    kube_virt_interfaces: str = ""
    redirect_dns: bool = False
    capture_all_dns: bool = False
    drop_invalid: bool = False
    dual_stack: bool = False
    dry_run: bool = False
    skip_rule_apply: bool = False
    run_validation: bool = False
    iptables_probe_port: int = 15002
    probe_timeout_s: float = 5.0
    cni_mode: bool = False
    network_namespace: str = ""
    reconcile: bool = False
    cleanup_only: bool = False
    force_apply: bool = False
    native_nftables: bool = False
    force_iptables_binary: str = ""
    owner_groups: str = WILDCARD
    owner_groups_exclude: str = ""
    ipv4_loopback_cidr: str = "127.0.0.1/32"


class Machine(NamedTuple):
    """What was found on the machine: who the proxy is, its decisive address, its DNS servers."""

    envoy_user_id: str = "1337"
    local_address: str = "127.0.0.1"
    has_ipv6: bool = False
    dns_servers_v4: tuple[str, ...] = ()
    dns_servers_v6: tuple[str, ...] = ()


class CaptureOptions(NamedTuple):
    """Settings that hold together: what the builders of rules get."""

    settings: CaptureSettings
    machine: Machine
    uids: tuple[str, ...]
    gids: tuple[str, ...]
    tproxy: bool
    inbound_ports: tuple[str, ...]
    inbound_ports_exclude: tuple[str, ...]
    all_inbound: bool
    outbound_ports: tuple[str, ...]
    outbound_ports_exclude: tuple[str, ...]
    all_outbound: bool
    prefixes: tuple[Prefix, ...]
    prefixes_exclude: tuple[Prefix, ...]
    exclude_interfaces: tuple[str, ...]
    virtual_interfaces: tuple[str, ...]
    owner_groups: tuple[str, ...] | None  # None: every group's traffic is captured
    owner_groups_exclude: tuple[str, ...]
    dns: bool

    @property
    def ipv6(self) -> bool:
        """Return whether rules are made for IPv6 too."""
        return self.machine.has_ipv6

    @property
    def captures_inbound(self) -> bool:
        return self.all_inbound or bool(self.inbound_ports)

    @property
    def includes_loopback(self) -> bool:
        """Return whether a captured prefix is one of the loopback's, in either family."""
        return any(prefix.is_loopback for prefix in self.prefixes)


def check(settings: CaptureSettings) -> None:
    """Check what is wrong with the configuration whatever is to be done with it.

    Raises:
        ConfigurationError: too many owner groups, or no loopback prefix.
    """
    groups = split(settings.owner_groups)
    if settings.owner_groups != WILDCARD and len(groups) > MAX_OWNER_GROUPS:
        raise ConfigurationError(
            "number of owner groups whose outgoing traffic should be redirected to Envoy cannot exceed "
            f"{MAX_OWNER_GROUPS}, got {len(groups)}: [{' '.join(groups)}] "
            "(variable ISTIO_OUTBOUND_OWNER_GROUPS)"
        )
    check_loopback(settings.ipv4_loopback_cidr)


def build(settings: CaptureSettings, machine: Machine) -> CaptureOptions:
    """Return what the builders of rules need.

    Raises:
        ConfigurationError: a prefix does not parse, or `*` is excluded; the text names the flag.
    """
    if settings.service_exclude_cidr == WILDCARD:
        raise ConfigurationError(
            "invalid value for OUTBOUND_IP_RANGES_EXCLUDE: --istio-service-exclude-cidr cannot be *"
        )
    _check_characters(settings)
    uid = settings.proxy_uid or machine.envoy_user_id
    any_dns_server = bool(machine.dns_servers_v4 or machine.dns_servers_v6)
    return CaptureOptions(
        settings=settings,
        machine=machine,
        uids=split(uid),
        gids=split(settings.proxy_gid or uid),
        tproxy=settings.inbound_interception_mode == "TPROXY",
        inbound_ports=() if settings.inbound_ports == WILDCARD else split(settings.inbound_ports),
        inbound_ports_exclude=split(settings.local_exclude_ports),
        all_inbound=settings.inbound_ports == WILDCARD,
        outbound_ports=split(settings.outbound_ports),
        outbound_ports_exclude=split(settings.local_outbound_ports_exclude),
        all_outbound=settings.service_cidr == WILDCARD,
        prefixes=_prefixes("--istio-service-cidr", settings.service_cidr),
        prefixes_exclude=_prefixes("--istio-service-exclude-cidr", settings.service_exclude_cidr),
        exclude_interfaces=split(settings.exclude_interfaces),
        virtual_interfaces=split(settings.kube_virt_interfaces),
        owner_groups=None if settings.owner_groups == WILDCARD else split(settings.owner_groups),
        owner_groups_exclude=split(settings.owner_groups_exclude),
        dns=settings.redirect_dns and (settings.capture_all_dns or any_dns_server),
    )


def split(text: str) -> tuple[str, ...]:
    """Return the items of a list: split at commas, empty ones dropped, blanks kept."""
    return tuple(item for item in text.split(",") if item)


def _check_characters(settings: CaptureSettings) -> None:
    """Refuse what would end the line or the rule: iptables and nft judge values, and never see these."""
    forbidden = _NFT_SYNTAX if settings.native_nftables else _RESTORE_SYNTAX
    texts = settings._asdict()
    for member, flag in FLAG_OF.items():
        if any(character < " " or character in forbidden for character in texts[member]):
            raise ConfigurationError(f"{flag}: {quote(texts[member])} cannot stand in a rule")


def _prefixes(flag: str, text: str) -> tuple[Prefix, ...]:
    if text == WILDCARD:
        return ()
    try:
        return tuple(map(parse_prefix, split(text)))
    except ValueError as error:
        raise ConfigurationError(f"{flag}: {error}") from error
