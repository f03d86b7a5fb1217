"""The type URLs that the agent treats in a way of their own, and where a response goes."""

from typing import Final, Literal

PREFIX: Final = "type.googleapis.com/"
LISTENER: Final = PREFIX + "envoy.config.listener.v3.Listener"
ENDPOINTS: Final = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
NAME_TABLE: Final = PREFIX + "istio.networking.nds.v1.NameTable"
PROXY_CONFIG: Final = PREFIX + "istio.mesh.v1alpha1.ProxyConfig"
ECDS: Final = PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
HEALTH: Final = PREFIX + "istio.v1.HealthInformation"
WORKLOAD: Final = PREFIX + "istio.workload.Workload"

_SHORT: Final = {
    PREFIX + "envoy.config.cluster.v3.Cluster": "CDS",
    LISTENER: "LDS",
    PREFIX + "envoy.config.route.v3.RouteConfiguration": "RDS",
    ENDPOINTS: "EDS",
    PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret": "SDS",
    ECDS: "ECDS",
    NAME_TABLE: "NDS",
    PROXY_CONFIG: "PCDS",
}

Destination = Literal["envoy", "dns", "cert", "nobody"]


def short_name(type_url: str) -> str:
    """Return "CDS", "LDS", … for log lines; the URL itself where it has no such name."""
    return _SHORT.get(type_url, type_url)


def destination(type_url: str, *, name_table: bool, trust_bundle: bool) -> Destination:
    """Return who gets a response of this type; "nobody" is logged as an error and dropped.

    `name_table` and `trust_bundle` say whether the agent itself consumes those types.

    Source: the reference's xDS proxy, dispatch of responses.
    """
    if type_url == NAME_TABLE:
        return "dns" if name_table else "nobody"
    if type_url == PROXY_CONFIG:
        return "cert" if trust_bundle else "nobody"
    if type_url.startswith(PREFIX + "envoy.") or type_url == WORKLOAD:
        return "envoy"
    return "nobody"
