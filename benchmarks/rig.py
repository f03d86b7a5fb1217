"""An agent as a user starts it, beside the lab; for all benchmarks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from lab.mesh import Mesh, load_mesh
from tests.support.agent import RealAgent, short_directory
from tests.support.real_envoy import PortMap

__all__ = [
    "ACCOUNT",
    "FILTER_TYPES",
    "address",
    "agent_for",
    "answering_listener",
    "listener",
    "mesh_on_free_ports",
    "short_directory",
]

ACCOUNT: Final = "bookinfo-apps"
FILTER_TYPES: Final = "type.googleapis.com/envoy.extensions.filters.network"
_ISTIOD_SAN: Final = {"ISTIOD_SAN": "istiod.istio-system.svc"}


class ControlPlane(Protocol):
    """What an agent needs of the lab's istiod, wherever that runs."""

    @property
    def address(self) -> str: ...
    def provision(self, directory: Path, namespace: str, service_account: str) -> None: ...


def mesh_on_free_ports() -> Mesh:
    return load_mesh().with_ports(PortMap())


def agent_for(
    istiod: ControlPlane,
    directory: Path,
    *,
    role: str = "sidecar",
    account: str = ACCOUNT,
    discovery: str = "",
    environment: Mapping[str, str] | None = None,
    proxy_config: Mapping[str, Any] | None = None,  # Any: JSON
) -> RealAgent:
    """Return an agent that is provisioned like a pod and not started yet.

    Args:
        istiod: Its CA and, unless `discovery` names another address, its control plane.
        directory: Its working directory.
        role: "sidecar" or "router".
        account: Its service account.
        discovery: host:port of the control plane.
        environment: Further variables.
        proxy_config: Further members of ProxyConfig.
    """
    istiod.provision(directory, "default", account)
    return RealAgent(
        directory,
        discovery=discovery or istiod.address,
        role=role,
        account=account,
        environment=_ISTIOD_SAN | dict(environment or {}),
        proxy_config=proxy_config,
    )


def address(port: int) -> dict[str, Any]:  # Any: JSON, here and below
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(name: str, port: int, filter_name: str, config: dict[str, Any]) -> dict[str, Any]:
    filters = [{"name": f"envoy.filters.network.{filter_name}", "typed_config": config}]
    return {"name": name, "address": address(port), "filter_chains": [{"filters": filters}]}


def answering_listener(name: str, port: int) -> dict[str, Any]:
    """Return an HTTP listener that answers everything itself."""
    answer = {"status": 200, "body": {"inline_string": "ok"}}
    routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    config = {
        "@type": f"{FILTER_TYPES}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    return listener(name, port, "http_connection_manager", config)
