"""Where everything of the demo is: ports, directories, and the environment of each agent. Data only."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.mesh import Mesh

ROOT = Path(__file__).parents[2]  # the checkout
ISTIOD_PORT = 15012
SIDECAR_CERTIFICATE_S = 90  # rotated at half of it
_DAY_S = 86_400
_DRAIN_S, _PARENT_SHUTDOWN_S = 2, 8  # short, so that the old epoch's end can be watched


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One agent with its Envoy: role, identity, ports and working directory."""

    directory: Path
    role: str  # "router" or "sidecar"
    service_account: str
    pod: str
    admin_port: int
    status_port: int
    envoy_status_port: int
    prometheus_port: int
    certificate_s: int  # lifetime it asks for

    def environment(self, *, envoy: Path, istiod_port: int, path: str) -> dict[str, str]:
        """Return the agent's whole environment, as the injector would set it."""
        config = {
            "binaryPath": str(envoy),
            "concurrency": 1,
            "discoveryAddress": f"localhost:{istiod_port}",
            "drainDuration": f"{_DRAIN_S}s",
            "parentShutdownDuration": f"{_PARENT_SHUTDOWN_S}s",
            "proxyAdminPort": self.admin_port,
            "proxyMetadata": {"METRICS_LOCALHOST_ACCESS_ONLY": "true"},
            "statusPort": self.status_port,
            "terminationDrainDuration": "1s",
        }
        return {
            "CLOUD_PLATFORM": "none",
            "ENVOY_PROMETHEUS_PORT": str(self.prometheus_port),
            "ENVOY_STATUS_PORT": str(self.envoy_status_port),
            "INSTANCE_IP": "127.0.0.1",
            "ISTIO_META_CLUSTER_ID": "Kubernetes",
            "ISTIO_META_INTERCEPTION_MODE": "NONE",
            "ISTIO_META_MESH_ID": "cluster.local",
            "ISTIO_META_WORKLOAD_NAME": self.pod.rpartition("-")[0],
            "PATH": path,
            "PILOT_CERT_PROVIDER": "istiod",
            "POD_NAME": self.pod,
            "POD_NAMESPACE": "default",
            "PROXY_CONFIG": json.dumps(config),
            "SECRET_TTL": f"{self.certificate_s}s",
            "SERVICE_ACCOUNT": self.service_account,
            "TRUST_DOMAIN": "cluster.local",
        }

    def ports(self) -> Iterator[tuple[int, str]]:
        yield self.admin_port, f"{self.role}: Envoy's admin"
        yield self.status_port, f"{self.role}: agent's status"
        yield self.envoy_status_port, f"{self.role}: Envoy's readiness"
        yield self.prometheus_port, f"{self.role}: Envoy's metrics"


def run_directory(shift: int) -> Path:
    """Return where a demo works: one on other ports has a place of its own."""
    return ROOT / ".demo" / (f"run-{shift}" if shift else "run")


def router(shift: int = 0) -> Proxy:
    return Proxy(
        directory=run_directory(shift) / "router",
        role="router",
        service_account="istio-ingressgateway",
        pod="istio-ingressgateway-1",
        admin_port=16000 + shift,
        status_port=16020 + shift,
        envoy_status_port=16021 + shift,
        prometheus_port=16090 + shift,
        certificate_s=_DAY_S,
    )


def sidecar(shift: int = 0) -> Proxy:
    return Proxy(
        directory=run_directory(shift) / "sidecar",
        role="sidecar",
        service_account="bookinfo-apps",
        pod="bookinfo-1",
        admin_port=15000 + shift,
        status_port=15020 + shift,
        envoy_status_port=15021 + shift,
        prometheus_port=15090 + shift,
        certificate_s=SIDECAR_CERTIFICATE_S,
    )


def all_ports(mesh: Mesh, istiod_port: int, *proxies: Proxy) -> Mapping[int, str]:
    """Return every port that the demo listens on, and what for."""
    ports = {
        istiod_port: "control plane",
        mesh.gateway.listen.port: "gateway",
        mesh.outbound.port: "sidecar: outbound",
    }
    for service in mesh.services:
        for workload in service.workloads:
            name = f"{service.name} {workload.version}"
            ports[workload.application.port] = f"application {name}"
            ports[workload.inbound.port] = f"sidecar: inbound of {name}"
    for proxy in proxies:
        ports.update(proxy.ports())
    return ports
