"""What the log shows before anything is done: the variables as they were given, the configuration."""

from collections.abc import Mapping
from typing import Final

from pilot_agent.capture.options import CaptureOptions

_ENVIRONMENT: Final = (
    "ENVOY_PORT",
    "INBOUND_CAPTURE_PORT",
    "ISTIO_INBOUND_INTERCEPTION_MODE",
    "ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
    "ISTIO_INBOUND_PORTS",
    "ISTIO_OUTBOUND_PORTS",
    "ISTIO_LOCAL_EXCLUDE_PORTS",
    "ISTIO_EXCLUDE_INTERFACES",
    "ISTIO_SERVICE_CIDR",
    "ISTIO_SERVICE_EXCLUDE_CIDR",
    "ISTIO_META_DNS_CAPTURE",
    "INVALID_DROP",
)


def environment_lines(variables: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={variables.get(name, '')}" for name in _ENVIRONMENT)


def configuration_lines(options: CaptureOptions) -> str:
    settings, machine = options.settings, options.machine
    servers = ",".join(f"[{' '.join(one)}]" for one in (machine.dns_servers_v4, machine.dns_servers_v6))
    values: dict[str, object] = {
        "PROXY_PORT": settings.envoy_port,
        "PROXY_INBOUND_CAPTURE_PORT": settings.inbound_capture_port,
        "PROXY_TUNNEL_PORT": settings.inbound_tunnel_port,
        "PROXY_UID": settings.proxy_uid or machine.envoy_user_id,
        "PROXY_GID": settings.proxy_gid or settings.proxy_uid or machine.envoy_user_id,
        "INBOUND_INTERCEPTION_MODE": settings.inbound_interception_mode,
        "INBOUND_TPROXY_MARK": settings.inbound_tproxy_mark,
        "INBOUND_TPROXY_ROUTE_TABLE": settings.inbound_tproxy_route_table,
        "INBOUND_PORTS_INCLUDE": settings.inbound_ports,
        "INBOUND_PORTS_EXCLUDE": settings.local_exclude_ports,
        "OUTBOUND_OWNER_GROUPS_INCLUDE": settings.owner_groups,
        "OUTBOUND_OWNER_GROUPS_EXCLUDE": settings.owner_groups_exclude,
        "OUTBOUND_IP_RANGES_INCLUDE": settings.service_cidr,
        "OUTBOUND_IP_RANGES_EXCLUDE": settings.service_exclude_cidr,
        "OUTBOUND_PORTS_INCLUDE": settings.outbound_ports,
        "OUTBOUND_PORTS_EXCLUDE": settings.local_outbound_ports_exclude,
        "KUBE_VIRT_INTERFACES": settings.kube_virt_interfaces,
        "ENABLE_INBOUND_IPV6": options.ipv6,
        "DUAL_STACK": settings.dual_stack,
        "DNS_CAPTURE": settings.redirect_dns,
        "DROP_INVALID": settings.drop_invalid,
        "CAPTURE_ALL_DNS": settings.capture_all_dns,
        "DNS_SERVERS": servers,
        "NETWORK_NAMESPACE": settings.network_namespace,
        "CNI_MODE": settings.cni_mode,
        "EXCLUDE_INTERFACES": settings.exclude_interfaces,
        "RECONCILE": settings.reconcile,
        "CLEANUP_ONLY": settings.cleanup_only,
        "FORCE_APPLY": settings.force_apply,
        "NATIVE_NFTABLES": settings.native_nftables,
        "FORCE_IPTABLES_BINARY": settings.force_iptables_binary,
    }
    return "\n".join(f"{name}={_text(value)}" for name, value in values.items())


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
