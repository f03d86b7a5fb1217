"""What the lab's configuration says: services, workloads, one gateway, and who may be called how.

Only data and the reading of YAML; what Envoy is told about it is in `lab.resources`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

BOOKINFO = Path(__file__).parent / "config" / "bookinfo.yaml"


class MeshError(ValueError):
    """The configuration does not say what it must; the text names the place."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @classmethod
    def parse(cls, text: object) -> "Address":
        host, colon, port = str(text).rpartition(":")
        if not colon or not host or not port.isdigit():
            raise MeshError(f"address {text!r}: expected host:port")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One version of a service: the sidecar listens on `inbound` with mTLS and forwards to `application`."""

    version: str
    inbound: Address
    application: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    port: int
    cluster_ip: str
    service_account: str
    workloads: tuple[Workload, ...]
    split: tuple[tuple[str, int], ...] = ()  # (version, weight); empty: all workloads alike


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRoute:
    kind: str  # "exact" or "prefix"
    path: str
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    name: str
    port: int
    listen: Address
    hosts: tuple[str, ...]
    routes: tuple[GatewayRoute, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    trust_domain: str
    namespace: str
    domain: str
    gateway: Gateway
    outbound: Address
    services: tuple[Service, ...]
    trust_bundle_pem: tuple[str, ...] = field(default=())  # pushed as PCDS when not empty

    def service(self, name: str) -> Service:
        for service in self.services:
            if service.name == name:
                return service
        raise MeshError(f"service {name!r} is not configured")

    def host(self, service: Service) -> str:
        return f"{service.name}.{self.namespace}.{self.domain}"

    def spiffe_id(self, service_account: str) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{service_account}"

    def with_ports(self, pick: Callable[[int], int]) -> "Mesh":
        """Return this mesh with every port that somebody listens on replaced by `pick(port)`.

        The names that Envoy sees (`http.8080`, `outbound|9080||…`) stay: they follow the services' ports.
        """

        def moved(address: Address) -> Address:
            return Address(address.host, pick(address.port))

        def workload(one: Workload) -> Workload:
            return replace(one, inbound=moved(one.inbound), application=moved(one.application))

        services = tuple(
            replace(service, workloads=tuple(workload(one) for one in service.workloads))
            for service in self.services
        )
        gateway = replace(self.gateway, listen=moved(self.gateway.listen))
        return replace(self, services=services, gateway=gateway, outbound=moved(self.outbound))

    def with_split(self, service_name: str, weights: Mapping[str, int]) -> "Mesh":
        """Return this mesh with the weights of one service's versions replaced."""
        changed = replace(self.service(service_name), split=tuple(weights.items()))
        kept = (changed if one.name == service_name else one for one in self.services)
        return replace(self, services=tuple(kept))


def config_files(path: Path) -> tuple[Path, ...]:
    """Return the YAML files that `path` stands for: itself, or those in the directory by name."""
    return tuple(sorted(path.glob("*.yaml"))) if path.is_dir() else (path,)


def load_mesh(path: Path = BOOKINFO) -> Mesh:
    """Read one YAML file, or all of a directory: their services together, other members once.

    Raises:
        MeshError: a file is no YAML, or a member is missing, doubled or of the wrong form.
        OSError: a file cannot be read.
    """
    try:
        return parse_mesh(_merged(config_files(path)))
    except (KeyError, TypeError, AttributeError) as error:
        raise MeshError(f"{path}: {type(error).__name__}: {error}") from error


def _merged(files: Sequence[Path]) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 - the model itself needs no YAML

    whole: dict[str, Any] = {"services": []}
    for file in files:
        try:
            part = dict(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise MeshError(f"{file}: {error}") from error
        whole["services"] += part.pop("services", [])
        doubled = sorted(whole.keys() & part.keys())
        if doubled:
            raise MeshError(f"{file}: {doubled} stand in another file too")
        whole |= part
    return whole


def parse_mesh(document: Mapping[str, Any]) -> Mesh:
    """Return the mesh of a parsed document; Any: YAML's own shapes, checked member by member."""
    mesh = Mesh(
        trust_domain=str(document["trust_domain"]),
        namespace=str(document["namespace"]),
        domain=str(document["domain"]),
        gateway=_gateway(document["gateway"]),
        outbound=Address.parse(document["outbound"]["listen"]),
        services=tuple(_service(one) for one in document["services"]),
        trust_bundle_pem=tuple(document.get("trust_bundle_pem", ())),
    )
    for route in mesh.gateway.routes:
        mesh.service(route.service)
    return mesh


def _gateway(document: Mapping[str, Any]) -> Gateway:
    return Gateway(
        name=document["name"],
        port=int(document["port"]),
        listen=Address.parse(document["listen"]),
        hosts=tuple(document["hosts"]),
        routes=tuple(_route(one) for one in document["routes"]),
    )


def _route(document: Mapping[str, Any]) -> GatewayRoute:
    ((kind, path),) = document["match"].items()
    if kind not in ("exact", "prefix"):
        raise MeshError(f"route match {kind!r}: expected exact or prefix")
    return GatewayRoute(kind=kind, path=path, service=document["to"])


def _service(document: Mapping[str, Any]) -> Service:
    workloads = tuple(_workload(one) for one in document["workloads"])
    split = tuple((str(k), int(v)) for k, v in document.get("split", {}).items())
    unknown = _unknown_versions(split, workloads)
    if unknown:
        raise MeshError(f"service {document['name']}: split names versions without workload: {unknown}")
    return Service(
        name=document["name"],
        port=int(document["port"]),
        cluster_ip=document["cluster_ip"],
        service_account=document["service_account"],
        workloads=workloads,
        split=split,
    )


def _unknown_versions(split: Sequence[tuple[str, int]], workloads: Sequence[Workload]) -> list[str]:
    return sorted({version for version, _ in split} - {one.version for one in workloads})


def _workload(document: Mapping[str, Any]) -> Workload:
    return Workload(
        version=document["version"],
        inbound=Address.parse(document["inbound"]),
        application=Address.parse(document["application"]),
    )
