"""An agent as a user starts it, beside the lab; for all benchmarks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lab.istiod import Istiod
from lab.mesh import Mesh, load_mesh
from tests.support.agent import RealAgent, short_directory
from tests.support.real_envoy import PortMap

__all__ = ["ACCOUNT", "agent_for", "mesh_on_free_ports", "short_directory"]

ACCOUNT: Final = "bookinfo-apps"
_ISTIOD_SAN: Final = {"ISTIOD_SAN": "istiod.istio-system.svc"}


def mesh_on_free_ports() -> Mesh:
    return load_mesh().with_ports(PortMap())


def agent_for(
    istiod: Istiod,
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
