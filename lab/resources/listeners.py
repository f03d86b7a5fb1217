"""Listeners: the gateway's, the applications' way out, and one with mTLS in front of each application."""

from collections.abc import Iterator

from envoy.config.listener.v3 import listener_pb2

from lab.mesh import Address, Mesh, Service, Workload
from lab.resources import routes, shapes
from lab.resources.shapes import Json
from lab.snapshot import LDS, Resource


def gateway(mesh: Mesh) -> Resource:
    """Return the router's listener, whose routes come as `http.PORT`."""
    listen = mesh.gateway.listen
    manager = shapes.http_connection_manager(
        f"outbound_{shapes.listener_name(listen)};",
        rds={"config_source": shapes.ADS, "route_config_name": routes.gateway_name(mesh)},
        http_protocol_options={},
        server_name="istio-envoy",
        use_remote_address=True,
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details={"subject": True, "cert": True, "dns": True, "uri": True},
    )
    chain: Json = {"filters": [manager], "transport_socket_connect_timeout": "15s"}
    return _listener(listen, "OUTBOUND", [chain])


def outbound(mesh: Mesh) -> Resource:
    """Return the listener that the applications use to reach other services, told apart by Host."""
    manager = shapes.http_connection_manager(
        f"outbound_{shapes.listener_name(mesh.outbound)};",
        rds={"config_source": shapes.ADS, "route_config_name": routes.outbound_name(mesh)},
        use_remote_address=False,
    )
    return _listener(mesh.outbound, "OUTBOUND", [{"filters": [manager]}])


def inbound(mesh: Mesh) -> Iterator[Resource]:
    """Yield the mTLS listeners in front of the applications."""
    for service in mesh.services:
        for workload in service.workloads:
            yield _inbound(mesh, service, workload)


def _inbound(mesh: Mesh, service: Service, workload: Workload) -> Resource:
    manager = shapes.http_connection_manager(
        f"inbound_{shapes.listener_name(workload.inbound)};",
        route_config=routes.inbound(mesh, service, workload.application),
        server_name="istio-envoy",
        use_remote_address=False,
        forward_client_cert_details="APPEND_FORWARD",
        set_current_client_cert_details={"subject": True, "dns": True, "uri": True},
    )
    chain: Json = {
        "filter_chain_match": {"transport_protocol": "tls"},
        "filters": [manager],
        "transport_socket": shapes.downstream_tls(mesh.trust_domain),
        "name": shapes.inbound_name(workload.application),
    }
    return _listener(workload.inbound, "INBOUND", [chain], listener_filters=[shapes.tls_inspector()])


def _listener(address: Address, direction: str, chains: list[Json], **more: object) -> Resource:
    shape: Json = {
        "name": shapes.listener_name(address),
        "address": shapes.socket_address(address),
        "filter_chains": chains,
        "traffic_direction": direction,
        **more,
    }
    return shapes.resource(shape["name"], LDS, listener_pb2.Listener(), shape)
