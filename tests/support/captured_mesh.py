"""Bookinfo in pods with traffic capture: what Envoy is told when everything arrives at 15001 and 15006.

The lab's own mesh gives every listener a port of its own. Here the applications listen on their pod's
address, and call other services at an address that nobody has, as with cluster IPs in Kubernetes.

As a program it is the control plane of such a mesh, until its input ends. (gRPC keeps threads, and threads
stay in the network namespace in which they began: no test can run it in its own process.)

    python -m tests.support.captured_mesh HOST GATEWAY PLACES DIRECTORIES

PLACES: JSON, [service, version, host, port] each. DIRECTORIES: JSON, working directory of an agent → its
service account; what a pod gets mounted is written there.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2 as _original_dst  # noqa: F401

from lab.istiod import Istiod
from lab.mesh import Address, Mesh, load_mesh
from lab.resources import build_snapshot, clusters, routes, shapes
from lab.resources.shapes import Json
from lab.snapshot import CDS, LDS, NodeInfo, Resource, Snapshot, World

ANY_SERVICE: Final = Address("10.96.0.100", 9080)
OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
_ORIGINAL_DST: Final = {
    "name": "envoy.filters.listener.original_dst",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
    },
}


def captured_mesh(gateway: str, placed: Mapping[tuple[str, str], Address]) -> Mesh:
    """Return bookinfo with the workloads (service, version) that `placed` names, at those addresses."""
    mesh = load_mesh()
    services = []
    for service in mesh.services:
        workloads = tuple(
            replace(one, inbound=place, application=place)
            for one in service.workloads
            if (place := placed.get((service.name, one.version)))
        )
        services.append(replace(service, workloads=workloads))
    listen = Address(gateway, mesh.gateway.listen.port)
    gateway_listener = replace(mesh.gateway, listen=listen)
    return replace(mesh, services=tuple(services), gateway=gateway_listener, outbound=ANY_SERVICE)


def applications_of(mesh: Mesh, host: str) -> Mesh:
    """Return the mesh with the workloads of one pod alone."""
    services = (
        replace(service, workloads=tuple(one for one in service.workloads if one.application.host == host))
        for service in mesh.services
    )
    return replace(mesh, services=tuple(services))


def captured_world(mesh: Mesh) -> World:
    """Return what each node sees: the gateway as in the lab, a sidecar the two captured ports."""

    def world(node: NodeInfo) -> Snapshot:
        if node.role == "router":
            return build_snapshot(mesh, "router")
        return _sidecar(mesh, node.id.split("~")[1])

    return world


def _sidecar(mesh: Mesh, host: str) -> Snapshot:
    own = applications_of(mesh, host)
    places = [one.application for service in own.services for one in service.workloads]
    return Snapshot.of(
        *clusters.outbound(mesh),
        *clusters.assignments(mesh),
        *(_inbound_cluster(place) for place in places),
        _outbound_listener(mesh),
        _inbound_listener(own),
        routes.outbound(mesh),
    )


def _inbound_cluster(place: Address) -> Resource:
    """To where the connection was going, from an address by which the rules know the proxy."""
    name = shapes.inbound_name(place)
    shape: Json = {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
    }
    return shapes.resource(name, CDS, cluster_pb2.Cluster(), shape)


def _outbound_listener(mesh: Mesh) -> Resource:
    manager = shapes.http_connection_manager(
        "outbound_0.0.0.0_9080;",
        rds={"config_source": shapes.ADS, "route_config_name": routes.outbound_name(mesh)},
        use_remote_address=False,
    )
    chain: Json = {"filters": [manager]}
    return _listener("virtualOutbound", OUTBOUND_PORT, "OUTBOUND", [chain], [_ORIGINAL_DST])


def _inbound_listener(mesh: Mesh) -> Resource:
    """A chain with mTLS for each application's port; what is no mTLS is refused."""
    chains = []
    for service in mesh.services:
        for workload in service.workloads:
            place = workload.application
            manager = shapes.http_connection_manager(
                f"inbound_0.0.0.0_{place.port};",
                route_config=routes.inbound(mesh, service, place),
                use_remote_address=False,
                forward_client_cert_details="APPEND_FORWARD",
                set_current_client_cert_details={"subject": True, "dns": True, "uri": True},
            )
            chains.append(
                {
                    "filter_chain_match": {"transport_protocol": "tls", "destination_port": place.port},
                    "filters": [manager],
                    "transport_socket": shapes.downstream_tls(mesh.trust_domain),
                    "name": shapes.inbound_name(place),
                }
            )
    filters = [_ORIGINAL_DST, shapes.tls_inspector()]
    return _listener("virtualInbound", INBOUND_PORT, "INBOUND", chains, filters)


def _listener(name: str, port: int, direction: str, chains: list[Json], filters: list[Json]) -> Resource:
    shape: Json = {
        "name": name,
        "stat_prefix": name,
        "address": shapes.socket_address(Address("0.0.0.0", port)),
        "filter_chains": chains,
        "listener_filters": filters,
        "traffic_direction": direction,
    }
    return shapes.resource(name, LDS, listener_pb2.Listener(), shape)


def main(arguments: list[str]) -> None:
    host, gateway, places, directories = arguments
    placed = {(service, version): Address(at, port) for service, version, at, port in json.loads(places)}
    with Istiod(captured_world(captured_mesh(gateway, placed)), host=host, port=15012) as istiod:
        for directory, account in json.loads(directories).items():
            istiod.provision(Path(directory), "default", account)
        sys.stdout.write("up\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
