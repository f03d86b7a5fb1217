"""The two objects everybody else reads: `ProxyConfig`, the proxy's settings, and `Node`, who it is."""

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from pilot_agent.environment import duration_s


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The node of the xDS API that this agent speaks for."""

    role: str  # "sidecar", "router", "waypoint", …
    ip_addresses: tuple[str, ...]  # INSTANCE_IP first, then those of the interfaces
    id: str  # "pod.namespace"; the dot is there even when both are empty
    domain: str

    @property
    def service_node(self) -> str:
        """Return the node id of the bootstrap: `role~ip~id~domain`."""
        return "~".join((self.role, self.ip_addresses[0], self.id, self.domain))


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The final ProxyConfig. The defaults are those of the reference.

    `document` is the whole message in canonical protobuf JSON (camelCase, durations `45s`, zero values
    left out); the other fields are what the agent itself reads of it.
    """

    config_path: str = "./etc/istio/proxy"
    binary_path: str = "/usr/local/bin/envoy"
    service_cluster: str = "istio-proxy"  # empty when tracingServiceName is given instead
    drain_duration_s: float = 45.0
    termination_drain_duration_s: float = 5.0
    parent_shutdown_duration_s: float = 60.0
    discovery_address: str = "istiod.istio-system.svc:15012"
    control_plane_auth_policy: str = "MUTUAL_TLS"  # or "NONE"
    proxy_admin_port: int = 15000
    status_port: int = 15020  # 0: no status server
    concurrency: int | None = None  # None and 0: Envoy chooses
    custom_config_file: str = ""
    proxy_metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    readiness_probe: Mapping[str, Any] | None = None
    private_key_provider: Mapping[str, Any] | None = None
    document: Mapping[str, Any] = msgspec.field(default_factory=dict)  # Any: canonical JSON

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return the config that a canonical JSON document describes; no default is added.

        Zero values are what the document lacks, but for parentShutdownDuration: nobody gives it by
        default, and a hot restart needs one.
        """
        return cls(
            config_path=document.get("configPath", ""),
            binary_path=document.get("binaryPath", ""),
            service_cluster=document.get("serviceCluster", ""),
            drain_duration_s=duration_s(document.get("drainDuration", "0s")),
            termination_drain_duration_s=duration_s(document.get("terminationDrainDuration", "0s")),
            parent_shutdown_duration_s=duration_s(document.get("parentShutdownDuration", "60s")),
            discovery_address=document.get("discoveryAddress", ""),
            control_plane_auth_policy=document.get("controlPlaneAuthPolicy", "NONE"),
            proxy_admin_port=document.get("proxyAdminPort", 0),
            status_port=document.get("statusPort", 0),
            concurrency=document.get("concurrency"),
            custom_config_file=document.get("customConfigFile", ""),
            proxy_metadata=document.get("proxyMetadata", {}),
            readiness_probe=document.get("readinessProbe"),
            private_key_provider=document.get("privateKeyProvider"),
            document=document,
        )
