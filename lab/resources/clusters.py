"""Clusters and their endpoints: `outbound|…` over mTLS by EDS, `inbound|…` straight to the application."""

from collections.abc import Iterator

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from lab.mesh import Address, Mesh, Service, Workload
from lab.resources import shapes
from lab.resources.shapes import Json
from lab.snapshot import CDS, EDS, Resource


def outbound(mesh: Mesh) -> Iterator[Resource]:
    """Yield one cluster for each service and one for each of its versions."""
    for service, subset, _ in _targets(mesh):
        yield _cluster(_outbound_shape(mesh, service, subset))
    yield _cluster({"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "10s"})


def assignments(mesh: Mesh) -> Iterator[Resource]:
    """Yield the endpoints of each outbound cluster."""
    for service, subset, workloads in _targets(mesh):
        name = shapes.outbound_name(mesh.host(service), service, subset)
        shape: Json = {
            "cluster_name": name,
            "endpoints": [
                {
                    "locality": {},
                    "lb_endpoints": [_endpoint(mesh, service, one) for one in workloads],
                    "load_balancing_weight": len(workloads),
                }
            ],
        }
        yield shapes.resource(name, EDS, endpoint_pb2.ClusterLoadAssignment(), shape)


def inbound(mesh: Mesh) -> Iterator[Resource]:
    """Yield one cluster for each application behind the sidecar."""
    for service in mesh.services:
        for workload in service.workloads:
            yield _cluster(_inbound_shape(mesh, service, workload.application))


def _targets(mesh: Mesh) -> Iterator[tuple[Service, str, tuple[Workload, ...]]]:
    for service in mesh.services:
        yield service, "", service.workloads
        if len(service.workloads) > 1:
            for version in dict.fromkeys(one.version for one in service.workloads):
                yield service, version, tuple(one for one in service.workloads if one.version == version)


def _outbound_shape(mesh: Mesh, service: Service, subset: str) -> Json:
    host = mesh.host(service)
    name = shapes.outbound_name(host, service, subset)
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": shapes.ADS, "service_name": name},
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": shapes.NO_LIMITS,
        "metadata": _metadata(mesh, service, {"subset": subset} if subset else {}),
        "common_lb_config": {"healthy_panic_threshold": {}},
        "alt_stat_name": f"{name};",
        "transport_socket_matches": [
            {
                "name": "tlsMode-istio",
                "match": {"tlsMode": "istio"},
                "transport_socket": shapes.upstream_tls(
                    sni=f"outbound_.{service.port}_.{subset}_.{host}",
                    spiffe_id=mesh.spiffe_id(service.service_account),
                ),
            },
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": shapes.raw_buffer()},
        ],
    }


def _inbound_shape(mesh: Mesh, service: Service, application: Address) -> Json:
    name = shapes.inbound_name(application)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": shapes.NO_LIMITS,
        "metadata": _metadata(mesh, service, {}),
        "alt_stat_name": f"{name};",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": shapes.socket_address(application)}}]}],
        },
    }


def _metadata(mesh: Mesh, service: Service, more: Json) -> Json:
    host = mesh.host(service)
    known = {"services": [{"host": host, "name": host, "namespace": mesh.namespace}]}
    return {"filter_metadata": {"istio": {**known, **more}}}


def _endpoint(mesh: Mesh, service: Service, workload: Workload) -> Json:
    name = f"{service.name}-{workload.version};{mesh.namespace};{service.name};{workload.version};Kubernetes"
    return {
        "endpoint": {
            "address": shapes.socket_address(workload.inbound),
            "health_check_config": {},
        },
        "health_status": "HEALTHY",
        "metadata": {
            "filter_metadata": {
                "envoy.transport_socket_match": {"tlsMode": "istio"},
                "istio": {"workload": name},
            }
        },
        "load_balancing_weight": 1,
    }


def _cluster(shape: Json) -> Resource:
    return shapes.resource(shape["name"], CDS, cluster_pb2.Cluster(), shape)
