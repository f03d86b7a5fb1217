"""What a captured pod is told by istiod: everything in and out is let through, on Istio's two ports."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2 as _original  # noqa: F401
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as _tcp_proxy  # noqa: F401

from lab.mesh import Address, load_mesh
from lab.resources import internal, shapes
from lab.snapshot import CDS, LDS, NodeInfo, Resource, Snapshot

GATEWAY_PORT = 8080
Json = shapes.Json
_TYPES = "type.googleapis.com/envoy.extensions.filters."


def pod_world(node: NodeInfo) -> Snapshot:
    """Return what one node sees: a gateway a listener of its own, all others the capture's two."""
    resources = [_cluster("PassthroughCluster"), _cluster("InboundPassthroughCluster", inbound=True)]
    resources.append(internal.name_table(load_mesh()))
    if node.role == "sidecar":
        transparent = node.metadata.get("INTERCEPTION_MODE") == "TPROXY"
        resources += [
            _listener("virtualOutbound", 15001, "OUTBOUND", "PassthroughCluster"),
            _listener(
                "virtualInbound", 15006, "INBOUND", "InboundPassthroughCluster", transparent=transparent
            ),
        ]
    else:
        resources += [_listener("0.0.0.0_8080", GATEWAY_PORT, "OUTBOUND", "PassthroughCluster")]
    return Snapshot.of(*resources)


def _cluster(name: str, *, inbound: bool = False) -> Resource:
    shape: Json = {
        "name": name,
        "type": "ORIGINAL_DST",
        "connect_timeout": "10s",
        "lb_policy": "CLUSTER_PROVIDED",
    }
    if inbound:  # the capture lets pass what comes from this address
        shape["upstream_bind_config"] = {"source_address": {"address": "127.0.0.6", "port_value": 0}}
    return shapes.resource(name, CDS, cluster_pb2.Cluster(), shape)


def _listener(name: str, port: int, direction: str, cluster: str, *, transparent: bool = False) -> Resource:
    forward: Json = {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": _TYPES + "network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": cluster,
        },
    }
    shape: Json = {
        "name": name,
        "address": shapes.socket_address(Address("0.0.0.0", port)),
        "filter_chains": [{"filters": [forward]}],
        "listener_filters": [
            {
                "name": "envoy.filters.listener.original_dst",
                "typed_config": {"@type": _TYPES + "listener.original_dst.v3.OriginalDst"},
            }
        ],
        "traffic_direction": direction,
    }
    if transparent:
        shape["transparent"] = True
    return shapes.resource(name, LDS, listener_pb2.Listener(), shape)
