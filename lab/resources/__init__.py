"""Turns a mesh into what Envoy is told, in the shapes and under the names that istiod uses."""

from functools import lru_cache

from lab.mesh import Mesh
from lab.resources import clusters, internal, listeners, routes
from lab.snapshot import Resource, Snapshot, World

__all__ = ["build_snapshot", "world_of"]


def world_of(mesh: Mesh) -> World:
    """Return what each node of the mesh sees: routers the gateway, all others the sidecar's part."""
    return lambda node: build_snapshot(mesh, "router" if node.role == "router" else "sidecar")


@lru_cache(maxsize=8)
def build_snapshot(mesh: Mesh, role: str) -> Snapshot:
    """Return the resources for one role, "sidecar" or "router"."""
    resources: list[Resource] = [
        *clusters.outbound(mesh),
        *clusters.assignments(mesh),
        *internal.all_of(mesh),
    ]
    if role == "router":
        resources += [listeners.gateway(mesh), routes.gateway(mesh)]
    else:
        resources += [*clusters.inbound(mesh), *listeners.inbound(mesh)]
        resources += [listeners.outbound(mesh), routes.outbound(mesh)]
    return Snapshot.of(*resources)
