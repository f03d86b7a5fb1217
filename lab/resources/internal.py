"""What istiod tells the agent itself: the name table (NDS) and, if there is one, a trust bundle (PCDS)."""

from collections.abc import Iterator

from lab.mesh import Mesh
from lab.snapshot import NDS, PCDS, Resource
from proto_gen.istio.mesh.v1alpha1 import proxy_config_pb2
from proto_gen.istio.networking.nds.v1 import name_table_pb2


def all_of(mesh: Mesh) -> Iterator[Resource]:
    yield name_table(mesh)
    if mesh.trust_bundle_pem:
        config = proxy_config_pb2.ProxyConfig(ca_certificates_pem=mesh.trust_bundle_pem)
        yield Resource.of("", PCDS, config.SerializeToString(deterministic=True))


def name_table(mesh: Mesh) -> Resource:
    """Return the table of all services by their full host name, one unnamed resource as from istiod."""
    table = name_table_pb2.NameTable()
    for service in mesh.services:
        entry = table.table[mesh.host(service)]
        entry.ips.append(service.cluster_ip)
        entry.registry, entry.shortname, entry.namespace = "Kubernetes", service.name, mesh.namespace
    return Resource.of("", NDS, table.SerializeToString(deterministic=True))
