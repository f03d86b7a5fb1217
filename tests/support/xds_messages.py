"""Short ways to write the four discovery messages, and an Envoy that behaves."""

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.protobuf import any_pb2

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
NDS = "type.googleapis.com/istio.networking.nds.v1.NameTable"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
PCDS = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig"
HEALTH = "type.googleapis.com/istio.v1.HealthInformation"


def request(variant: str, type_url: str, *names: str, node: str = "", nonce: str = "", **more: Any) -> Any:
    """Return a request that subscribes to `names`; `more` are further fields of the message."""
    if variant == "sotw":
        message: Any = pb.DiscoveryRequest(
            type_url=type_url, resource_names=names, response_nonce=nonce, **more
        )
    else:
        message = pb.DeltaDiscoveryRequest(
            type_url=type_url, resource_names_subscribe=names, response_nonce=nonce, **more
        )
    if node:
        message.node.id = node
    return message


def response(variant: str, type_url: str, nonce: str, version: str = "1", **resources: bytes) -> Any:
    """Return a response with resources name=content; each is an Any of `type_url`."""
    if variant == "sotw":
        return pb.DiscoveryResponse(
            type_url=type_url,
            nonce=nonce,
            version_info=version,
            resources=[any_pb2.Any(type_url=type_url, value=value) for value in resources.values()],
        )
    return pb.DeltaDiscoveryResponse(
        type_url=type_url,
        nonce=nonce,
        system_version_info=version,
        resources=[
            pb.Resource(name=name, version=version, resource=any_pb2.Any(type_url=type_url, value=value))
            for name, value in resources.items()
        ],
    )


def ack(variant: str, answered: Any, *names: str, error: str = "") -> Any:
    """Return the request that accepts `answered`, or rejects it with `error`."""
    accepted = request(variant, answered.type_url, nonce=answered.nonce)
    if variant == "sotw":
        accepted.resource_names.extend(names)
        accepted.version_info = "" if error else answered.version_info
    if error:
        accepted.error_detail.code = 13
        accepted.error_detail.message = error
    return accepted


def asked(message: Any) -> tuple[str, ...]:
    """Return the names that a request of either variant asks for."""
    if isinstance(message, pb.DiscoveryRequest):
        return tuple(message.resource_names)
    return tuple(message.resource_names_subscribe)
