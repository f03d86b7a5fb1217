"""What Envoy's configuration and command line depend on, found out once before anything is forked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from pilot_agent.bootstrap import inputs
from pilot_agent.bootstrap.families import Families, families
from pilot_agent.bootstrap.grpc_socket import CREDENTIAL_SOCKET, speaks_http2
from pilot_agent.bootstrap.identity import cluster_name, locality
from pilot_agent.bootstrap.metadata import AgentMembers, node_metadata, typed
from pilot_agent.bootstrap.platform import Platform, discover
from pilot_agent.bootstrap.runtime import runtime_flags
from pilot_agent.bootstrap.untyped import untyped_members
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Loaded, ProxyConfig, ProxyFlags


class BootstrapOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the generator and of the argument list; `build` makes them."""

    proxy_config: ProxyConfig
    flags: ProxyFlags
    agent: AgentMembers  # ports, switches and other values that are also metadata
    node_id: str
    cluster: str
    locality: Mapping[str, str]
    metadata: Mapping[str, Any]  # Any: JSON
    ip_addresses: tuple[str, ...]
    families: Families
    host_ip: str
    runtime_flags: Mapping[str, str | bool]
    delta_xds: bool
    metadata_discovery: bool
    load_stats_config: Mapping[str, Any] | None
    status_proxy_protocol: bool
    compliance_policy: str
    core_dump: bool
    override: str | None  # JSON text of ISTIO_BOOTSTRAP_OVERRIDE
    template: inputs.Template | None  # None: the standard document

    @property
    def role(self) -> str:
        """The node's type."""
        return self.flags.role

    @property
    def file_suffix(self) -> str:
        """Extension of the configuration file, `json` or `yaml`."""
        return self.template.suffix if self.template else "json"

    @property
    def annotations(self) -> Mapping[str, str]:
        """The pod's annotations."""
        found: Mapping[str, str] = self.metadata.get("ANNOTATIONS", {})
        return found

    @property
    def self_discovery(self) -> bool:
        """Whether Envoy has a cluster of its own service."""
        return bool(self.metadata.get("ENABLE_SELF_DISCOVERY") == "true")

    @property
    def metrics_localhost_only(self) -> bool:
        """Whether the statistics listener is for local clients only; the environment alone does not count."""
        return self.proxy_config.proxy_metadata.get("METRICS_LOCALHOST_ACCESS_ONLY") == "true"

    @property
    def stats_compression(self) -> bool:
        """Whether the statistics listener compresses."""
        return bool(self.proxy_config.document.get("statsCompression", True))

    @property
    def tracing(self) -> Mapping[str, Any]:
        """ProxyConfig's `tracing`, canonical JSON."""
        return self._member("tracing")

    @property
    def metrics_service(self) -> Mapping[str, Any]:
        """ProxyConfig's `envoyMetricsService`; the deprecated bare address counts where it has none."""
        service = self._member("envoyMetricsService")
        old_address = self.proxy_config.document.get("envoyMetricsServiceAddress", "")
        return service if service.get("address") or not old_address else {"address": old_address}

    @property
    def access_log_service(self) -> Mapping[str, Any]:
        """ProxyConfig's `envoyAccessLogService`."""
        return self._member("envoyAccessLogService")

    def _member(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.proxy_config.document.get(name, {})
        return found

    @classmethod
    def build(
        cls,
        environment: Environment,
        loaded: Loaded,
        *,
        working_dir: Path = Path(),
        platform: Platform | None = None,
        istio_version: str = "unknown",
        credential_socket: bool | None = None,
        external_sds: bool = False,
    ) -> Self:
        """Read the variables and files that Envoy's configuration depends on.

        Args:
            environment: The agent's variables.
            loaded: What the start found out.
            working_dir: What relative paths start from.
            platform: None: found out, which may ask a cloud's metadata server.
            istio_version: Stamped into the build.
            credential_socket: A gRPC server answers on the credential socket; None: found out.
            external_sds: Another process serves the workload's SDS socket.

        Raises:
            BootstrapError: metadata of the wrong type, or a template that cannot be read.
        """
        config, node = loaded.proxy_config, loaded.node
        if platform is None:
            platform = discover(environment, ip_addresses=node.ip_addresses)
        if credential_socket is None:
            credential_socket = speaks_http2(working_dir / CREDENTIAL_SOCKET)
        untyped = untyped_members(environment, config.proxy_metadata)
        members = typed(untyped)
        agent = inputs.agent_members(
            environment,
            loaded,
            platform,
            istio_version=istio_version,
            credential_socket=credential_socket,
            external_sds=external_sds,
        )
        metadata = node_metadata(untyped, members, agent)
        labels, namespace = metadata.get("LABELS", {}), metadata.get("NAMESPACE", "")
        delta = environment.boolean("ISTIO_DELTA_XDS", True) or node.role == "waypoint"
        policy, host_ip = environment.string("COMPLIANCE_POLICY"), environment.string("HOST_IP")
        return cls(
            proxy_config=config,
            flags=loaded.flags,
            agent=agent,
            node_id=node.service_node,
            cluster=cluster_name(config.document, labels, metadata.get("WORKLOAD_NAME", ""), namespace),
            locality=locality(labels.get("istio-locality", ""), platform.locality),
            metadata=metadata,
            ip_addresses=node.ip_addresses,
            families=families(node.ip_addresses, dual_stack=environment.boolean("ISTIO_DUAL_STACK", False)),
            host_ip=host_ip,
            runtime_flags=runtime_flags(
                config.document.get("runtimeValues", {}),
                compliance_policy=policy,
                strip_fragment=environment.boolean("HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED", True),
            ),
            delta_xds=delta,
            metadata_discovery=inputs.metadata_discovery(metadata, node.role, delta=delta),
            load_stats_config=inputs.load_stats_config(untyped),
            status_proxy_protocol=environment.boolean("ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL", False),
            compliance_policy=policy,
            core_dump=environment.boolean("ISTIO_ENVOY_ENABLE_CORE_DUMP", False),
            override=inputs.override(environment, working_dir, host_ip),
            template=inputs.template(environment, config, working_dir),
        )
