"""Routes: the gateway's paths, the services by Host with their weights, and straight through inbound."""

from envoy.config.route.v3 import route_pb2

from lab.mesh import Address, GatewayRoute, Mesh, Service
from lab.resources import shapes
from lab.resources.shapes import Json
from lab.snapshot import RDS, Resource


def gateway_name(mesh: Mesh) -> str:
    return f"http.{mesh.gateway.port}"


def outbound_name(mesh: Mesh) -> str:
    """Return the services' port, which is how Istio names the routes of a sidecar's HTTP port."""
    return str(mesh.services[0].port)


def gateway(mesh: Mesh) -> Resource:
    """Return `http.PORT` with the paths of the gateway in their order."""
    host = {
        "name": f"*:{mesh.gateway.port}",
        "domains": list(mesh.gateway.hosts),
        "routes": [_gateway_route(mesh, one) for one in mesh.gateway.routes],
        "include_request_attempt_count": True,
    }
    return _configuration(gateway_name(mesh), [host])


def outbound(mesh: Mesh) -> Resource:
    """Return the routes to every service; a host that is none of them gets 502, as with REGISTRY_ONLY."""
    refused: Json = {
        "name": "block_all",
        "domains": ["*"],
        "routes": [{"name": "block_all", "match": {"prefix": "/"}, "direct_response": {"status": 502}}],
    }
    hosts = [_service_host(mesh, one) for one in mesh.services]
    return _configuration(outbound_name(mesh), [*hosts, refused])


def inbound(mesh: Mesh, service: Service, application: Address) -> Json:
    """Return the inline routes of one inbound listener: all to the application, as long as it takes."""
    name = shapes.inbound_name(application)
    route: Json = {
        "cluster": name,
        "timeout": "0s",
        "retry_policy": {"retry_on": "reset-before-request", "num_retries": 2},
        "max_stream_duration": {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"},
    }
    whole: Json = {
        "name": "default",
        "match": {"prefix": "/"},
        "route": route,
        "decorator": {"operation": f"{mesh.host(service)}:{service.port}/*"},
    }
    host: Json = {"name": f"inbound|http|{application.port}", "domains": ["*"], "routes": [whole]}
    return {"name": name, "virtual_hosts": [host], "validate_clusters": False}


def _service_host(mesh: Mesh, service: Service) -> Json:
    host = mesh.host(service)
    short = f"{service.name}.{mesh.namespace}"
    return {
        "name": f"{host}:{service.port}",
        "domains": [host, f"{host}.", service.name, f"{short}.svc", short, service.cluster_ip],
        "routes": [_route(mesh, service, {"prefix": "/"}, f"{service.name}:{service.port}/*")],
        "include_request_attempt_count": True,
    }


def _gateway_route(mesh: Mesh, route: GatewayRoute) -> Json:
    service = mesh.service(route.service)
    match: Json = {"path" if route.kind == "exact" else "prefix": route.path, "case_sensitive": True}
    star = "*" if route.kind == "prefix" else ""
    return _route(mesh, service, match, f"{mesh.host(service)}:{service.port}{route.path}{star}")


def _route(mesh: Mesh, service: Service, match: Json, operation: str) -> Json:
    return {
        "match": match,
        "route": {
            **_destination(mesh, service),
            "timeout": "0s",
            "retry_policy": shapes.RETRY,
            "max_grpc_timeout": "0s",
        },
        "decorator": {"operation": operation},
    }


def _destination(mesh: Mesh, service: Service) -> Json:
    host = mesh.host(service)
    if not service.split:
        return {"cluster": shapes.outbound_name(host, service)}
    weighted = [
        {"name": shapes.outbound_name(host, service, version), "weight": weight}
        for version, weight in service.split
    ]
    return {"weighted_clusters": {"clusters": weighted}}


def _configuration(name: str, hosts: list[Json]) -> Resource:
    shape: Json = {
        "name": name,
        "virtual_hosts": hosts,
        "validate_clusters": False,
        "ignore_port_in_host_matching": True,
    }
    return shapes.resource(name, RDS, route_pb2.RouteConfiguration(), shape)
