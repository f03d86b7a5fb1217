"""Settings of the status server."""

from typing import Self

import msgspec

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig


class StatusOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the status server serves, and to whom."""

    port: int = 15020  # 0: no status server
    envoy_prometheus_port: int = 15090
    scrape_envoy: bool = True
    metrics_from_loopback_only: bool = False

    @classmethod
    def build(cls, environment: Environment, proxy_config: ProxyConfig, node: Node) -> Self:
        """Read the settings. Source: the reference's status server options."""
        del node  # the application's scrape annotation is for sidecars alone; it is read with that scrape
        disabled = environment.boolean("DISABLE_ENVOY", default=False)
        merged = environment.boolean("PILOT_AGENT_MERGE_ENVOY_STATS", default=True)
        return cls(
            port=proxy_config.status_port,
            envoy_prometheus_port=environment.integer("ENVOY_PROMETHEUS_PORT", 15090),
            scrape_envoy=merged and not disabled,
            metrics_from_loopback_only=environment.boolean("METRICS_LOCALHOST_ACCESS_ONLY", default=False),
        )
