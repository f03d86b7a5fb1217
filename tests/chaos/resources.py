"""What istiod tells here beyond bookinfo: TCP through gateway and sidecar, a Wasm filter, 50 MB."""

from collections.abc import Callable, Sequence
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as _tcp  # noqa: F401 - registers it

from lab.mesh import Address, Mesh
from lab.resources import shapes, world_of
from lab.resources.extensions import extended, listener, wasm_plugin
from lab.resources.shapes import Json
from lab.snapshot import CDS, LDS, NodeInfo, Resource, Snapshot, World

_TCP_PROXY: Final = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_OUT, _IN = "outbound|7||echo", "inbound|7||"


def world(
    mesh: Mesh,
    *,
    way_in: Address,
    way_through: Address,
    echo: Address,
    wasm: Address,
    module: str,
    ballast: Sequence[Resource] = (),
) -> World:
    """Return bookinfo with TCP way_in → mTLS → way_through → echo, a filter at `wasm`, and ballast."""
    base: Callable[[NodeInfo], Snapshot] = world_of(mesh)
    spiffe_id = mesh.spiffe_id("bookinfo-apps")
    router = (
        _listener(way_in, "OUTBOUND", _chain(_OUT)),
        _cluster(_OUT, way_through, shapes.upstream_tls(sni="echo", spiffe_id=spiffe_id)),
    )
    tls = {"transport_socket": shapes.downstream_tls(mesh.trust_domain)}
    sidecar = (
        _listener(way_through, "INBOUND", _chain(_IN) | tls),
        _cluster(_IN, echo, shapes.raw_buffer()),
        wasm_plugin("chaos", module),
        listener(wasm, "chaos"),
    )

    def seen(node: NodeInfo) -> Snapshot:
        more = router if node.role == "router" else sidecar
        return extended(base(node), *more, *ballast)

    return seen


def ballast(mebibytes: int) -> list[Resource]:
    """Return clusters that nobody uses, each with 50 KiB of metadata, of so much size together."""
    text = "x" * (50 << 10)
    made = []
    for number in range(mebibytes * 20):
        name = f"ballast-{number}"
        shape: Json = {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "metadata": {"filter_metadata": {"ballast": {"text": text}}},
        }
        made.append(shapes.resource(name, CDS, cluster_pb2.Cluster(), shape))
    return made


def _chain(cluster: str) -> Json:
    proxy = {"@type": _TCP_PROXY, "stat_prefix": cluster, "cluster": cluster}
    return {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}


def _listener(address: Address, direction: str, chain: Json) -> Resource:
    shape: Json = {
        "name": f"tcp_{shapes.listener_name(address)}",
        "address": shapes.socket_address(address),
        "filter_chains": [chain],
        "traffic_direction": direction,
    }
    return shapes.resource(shape["name"], LDS, listener_pb2.Listener(), shape)


def _cluster(name: str, address: Address, transport: Json) -> Resource:
    endpoint = {"endpoint": {"address": shapes.socket_address(address)}}
    shape: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": transport,
    }
    return shapes.resource(name, CDS, cluster_pb2.Cluster(), shape)
