"""One version of the world as one node sees it: for each type URL the resources by name."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
ECDS = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
NDS = "type.googleapis.com/istio.networking.nds.v1.NameTable"
PCDS = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig"
HEALTH = "type.googleapis.com/istio.v1.HealthInformation"

PUSH_ORDER = (CDS, EDS, LDS, RDS, SDS, ECDS, NDS, PCDS)
"""What is pushed first when several types changed: what is referred to before what refers to it."""

WILDCARD = frozenset({CDS, LDS, NDS, PCDS})
"""A subscription without names means all of these; of the other types it means none."""

ANSWERED_WHEN_EMPTY = frozenset({CDS, LDS})
"""Envoy waits for an answer to these at its start, even if there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource: `value` is the encoded message, `version` changes with it and only with it."""

    name: str
    type_url: str
    value: bytes
    version: str = ""

    @classmethod
    def of(cls, name: str, type_url: str, value: bytes) -> "Resource":
        return cls(name, type_url, value, hashlib.sha256(value).hexdigest()[:16])


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`by_type[type_url][name]`; `verbatim` holds whole recorded responses to answer a first request with."""

    by_type: Mapping[str, Mapping[str, Resource]]
    verbatim: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        return self.by_type.get(type_url, {})

    @classmethod
    def of(cls, *resources: Resource) -> "Snapshot":
        by_type: dict[str, dict[str, Resource]] = {}
        for one in resources:
            by_type.setdefault(one.type_url, {})[one.name] = one
        return cls(by_type=by_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Who asks. `id` is `role~ip~pod.namespace~domain`; the metadata is what the agent put there."""

    id: str
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # JSON values

    @property
    def role(self) -> str:
        return self.id.partition("~")[0]


World = Callable[[NodeInfo], Snapshot]
"""What to tell which node; `Mesh` and recordings are turned into one."""


def everyone_sees(snapshot: Snapshot) -> World:
    return lambda _node: snapshot
