"""`tracing`: which tracer ProxyConfig asks for, and its configuration."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.errors import BootstrapError

Json = dict[str, Any]  # Any: JSON values

_CLUSTERS: Final = {"zipkin": "zipkin", "lightstep": "lightstep", "datadog": "datadog_agent"}


def check_project(tracing: Mapping[str, Any], platform: Mapping[str, str]) -> None:
    """Refuse a Stackdriver tracer where no Google project is known. It adds nothing else to the document.

    Raises:
        BootstrapError: there is none.
    """
    if "stackdriver" in tracing and "gcp_project" not in platform:
        raise BootstrapError.of_config("unable to process Stackdriver tracer: missing GCP Project")


class Tracer(msgspec.Struct, frozen=True):
    """The tracer in use."""

    kind: str  # "zipkin", "lightstep" or "datadog"
    address: str  # host:port
    cluster: str


def tracer(tracing: Mapping[str, Any]) -> Tracer | None:
    """Return the tracer of ProxyConfig's `tracing`; Stackdriver and OpenCensus have no part here."""
    for kind, cluster in _CLUSTERS.items():
        if kind in tracing:
            return Tracer(kind, tracing[kind].get("address", ""), cluster)
    return None


def tracing_section(kind: str, *, service_name: str, token_file: str) -> Json:
    """Return the `tracing` member for a tracer of this kind."""
    return {"http": {"name": f"envoy.tracers.{kind}", "typed_config": _typed(kind, service_name, token_file)}}


def _typed(kind: str, service_name: str, token_file: str) -> Json:
    if kind == "zipkin":
        return {
            "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
            "collector_cluster": "zipkin",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
            "trace_id_128bit": True,
            "shared_span_context": False,
        }
    if kind == "lightstep":
        return {
            "@type": "type.googleapis.com/envoy.config.trace.v3.LightstepConfig",
            "collector_cluster": "lightstep",
            "access_token_file": token_file,
        }
    return {
        "@type": "type.googleapis.com/envoy.config.trace.v3.DatadogConfig",
        "collector_cluster": "datadog_agent",
        "service_name": service_name,
    }
