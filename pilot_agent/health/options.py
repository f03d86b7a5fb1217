"""What health needs to know of the configuration."""

import ipaddress
from typing import Self

import msgspec

from pilot_agent.dns.options import dns_is_on
from pilot_agent.environment import Environment
from pilot_agent.health.probe import ReadinessProbe
from pilot_agent.proxyconfig import Node, ProxyConfig


class HealthOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the readiness checks and of the application's probe."""

    admin_host: str = "127.0.0.1"  # "::1" in IPv6 mode
    source_address: str = "127.0.0.6"  # "::6" in IPv6 mode; traffic redirection lets it pass
    envoy_disabled: bool = False
    envoy_ready_port: int = 15021  # Envoy's own readiness listener
    needs_listeners: bool = False  # without any of istiod's nothing is served: a sidecar
    latch: bool = False  # ready once is ready for ever, as in the reference
    grpc_bootstrap_path: str = ""  # empty: no such file, and no such check
    dns_expected: bool = False  # readiness waits for the first name table
    probe_host: str = "localhost"  # where a probe without a host goes
    probe: ReadinessProbe | None = None
    ignored_probe: bool = False  # a probe is configured that names no method

    @classmethod
    def build(cls, environment: Environment, proxy_config: ProxyConfig, node: Node) -> Self:
        """Read the settings; nothing here can end the agent.

        Source: the reference's status server options and its health checker.
        """
        ipv6 = ipv6_mode(environment.string("INSTANCE_IP"), node.ip_addresses)
        legacy = environment.boolean("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", default=False)
        probe = ReadinessProbe.parse(proxy_config.readiness_probe) if proxy_config.readiness_probe else None
        return cls(
            admin_host="::1" if ipv6 else "127.0.0.1",
            source_address="::6" if ipv6 else "127.0.0.6",
            envoy_ready_port=environment.integer("ENVOY_STATUS_PORT", 15021),
            needs_listeners=node.role == "sidecar",
            latch=environment.boolean("READINESS_LATCH", default=False),
            envoy_disabled=environment.boolean("DISABLE_ENVOY", default=False),
            grpc_bootstrap_path=grpc_bootstrap_path(environment),
            dns_expected=dns_is_on(environment, node),
            probe_host="localhost" if legacy or not node.ip_addresses else node.ip_addresses[0],
            probe=probe if probe is not None and probe.method is not None else None,
            ignored_probe=probe is not None and probe.method is None,
        )


def grpc_bootstrap_path(environment: Environment) -> str:
    """Return where the bootstrap of proxyless gRPC is; set but empty means nowhere."""
    return environment.string("GRPC_XDS_BOOTSTRAP", "./etc/istio/proxy/grpc-bootstrap.json")


def ipv6_mode(instance_ip: str, addresses: tuple[str, ...]) -> bool:
    """Return whether Envoy's own loopback is `::1`, by `INSTANCE_IP` and the node's addresses."""
    instance = _parsed(instance_ip)
    if instance is not None and instance.version == 6 and not instance.is_link_local:
        return True
    found = [_parsed(text) for text in addresses]
    return bool(found) and all(address is not None and address.version == 6 for address in found)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
