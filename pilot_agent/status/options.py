"""Settings of the status server."""

from typing import Self

import msgspec

from pilot_agent.environment import Environment
from pilot_agent.health.options import ipv6_mode
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.status.app.configuration import VARIABLE as PROBERS
from pilot_agent.status.app.configuration import AppProber, parse_app_probers
from pilot_agent.status.metrics.targets import VARIABLE as ANNOTATIONS
from pilot_agent.status.metrics.targets import ScrapeTarget, parse_targets

_log = get_logger()


class StatusOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the status server serves, and to whom."""

    port: int = 15020  # 0: no status server
    envoy_prometheus_port: int = 15090
    scrape_envoy: bool = True
    scrape_targets: tuple[ScrapeTarget, ...] = ()  # of the application
    metrics_from_loopback_only: bool = False
    app_probers: dict[str, AppProber] = msgspec.field(default_factory=dict)  # by path
    app_host: str = "localhost"  # where all of them go
    app_source_address: str = "127.0.0.6"  # "::6" in IPv6 mode; traffic redirection lets it pass
    app_http2: bool = True  # offered to HTTPS probes
    app_keep_alive: bool = False
    status_for_all: bool = False  # /status answers others than loopback, too
    profiling: bool = True  # /debug/pprof/

    @classmethod
    def build(
        cls, environment: Environment, proxy_config: ProxyConfig, node: Node, *, profiling: bool = True
    ) -> Self:
        """Read the settings. Source: the reference's status server options.

        Raises:
            AppProbeError, ScrapeTargetError: ISTIO_KUBE_APP_PROBERS or ISTIO_PROMETHEUS_ANNOTATIONS
                cannot be used.
        """
        disabled = environment.boolean("DISABLE_ENVOY", default=False)
        merged = environment.boolean("PILOT_AGENT_MERGE_ENVOY_STATS", default=True)
        legacy = environment.boolean("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", default=False)
        instance_ip = environment.string("INSTANCE_IP")
        ipv6 = ipv6_mode(instance_ip, node.ip_addresses)
        return cls(
            port=proxy_config.status_port,
            envoy_prometheus_port=environment.integer("ENVOY_PROMETHEUS_PORT", 15090),
            scrape_envoy=merged and not disabled,
            scrape_targets=_targets(environment, proxy_config, node),
            metrics_from_loopback_only=environment.boolean("METRICS_LOCALHOST_ACCESS_ONLY", default=False),
            app_probers=parse_app_probers(environment.string(PROBERS)),
            app_host="localhost" if legacy or not instance_ip else instance_ip,
            app_source_address="::6" if ipv6 else "127.0.0.6",
            app_http2=environment.boolean("ISTIO_ENABLE_HTTP2_PROBING", default=True),
            app_keep_alive=environment.boolean("ENABLE_PROBE_KEEPALIVE_CONNECTIONS", default=False),
            status_for_all=environment.boolean("STATUS_PAGE_FOR_ALL", default=False),
            profiling=profiling,
        )


def _targets(environment: Environment, proxy_config: ProxyConfig, node: Node) -> tuple[ScrapeTarget, ...]:
    """Return the pages of the application's metrics; the annotation is for sidecars alone."""
    text = environment.string(ANNOTATIONS) if node.role == "sidecar" else ""
    targets = parse_targets(text, proxy_config.status_port)
    if text:
        shown = ", ".join(f"{each.port}{each.path}" for each in targets) or "scraping is switched off"
        _log.info(f"Prometheus scraping configuration: {shown}")
    return targets
