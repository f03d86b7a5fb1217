"""`static_resources.listeners`: Envoy's own ports for statistics and readiness.

Source: the reference's bootstrap, section "static_resources.listeners".
"""

from collections.abc import Sequence
from typing import Any, Final

from pilot_agent.bootstrap.endpoints import tcp_address
from pilot_agent.bootstrap.options import BootstrapOptions
from pilot_agent.bootstrap.tls import mesh_server_tls

Json = dict[str, Any]  # Any: JSON values

_TYPE: Final = "type.googleapis.com/envoy.extensions."
_COMPRESSORS: Final = ("brotli", "zstd", "gzip")
_COMPRESSED: Final = (
    "text/plain",
    "application/vnd.google.protobuf",
    "application/openmetrics-text",
    "application/openmetrics-protobuf",
)


def listeners(options: BootstrapOptions) -> list[Json]:
    """Return all listeners that hold for these options, in the reference's order."""
    found = [_prometheus(options)]
    if options.agent.secure_metrics_port:
        routes = [_route("/stats/prometheus", "prometheus_stats")]
        found.append(_secure(options, options.agent.secure_metrics_port, "secure_stats", routes))
    if options.agent.secure_merged_metrics_port:
        routes = [_route("/stats/prometheus", "agent"), _route("/metrics", "agent")]
        found.append(
            _secure(options, options.agent.secure_merged_metrics_port, "secure_merged_stats", routes)
        )
    found.append(_readiness(options))
    return found


def _prometheus(options: BootstrapOptions) -> Json:
    families = options.families
    hosts = (families.wildcard, families.second_wildcard)
    if options.metrics_localhost_only:
        hosts = (families.localhost, families.second_localhost)
    compressors = [_compressor(name) for name in _COMPRESSORS] if options.stats_compression else []
    manager = _connection_manager("stats", [_route("/stats/prometheus", "prometheus_stats")], compressors)
    return _listener(hosts[0], options.agent.prometheus_port, {"filters": [manager]}, second_host=hosts[1])


def _readiness(options: BootstrapOptions) -> Json:
    proxy_protocol = {
        "name": "envoy.listener.proxy_protocol",
        "typed_config": {
            "@type": f"{_TYPE}filters.listener.proxy_protocol.v3.ProxyProtocol",
            "allow_requests_without_proxy_protocol": True,
        },
    }
    manager = _connection_manager("agent", [_route("/healthz/ready", "agent")])
    return _listener(
        options.families.wildcard,
        options.agent.status_port,
        {"filters": [manager]},
        second_host=options.families.second_wildcard,
        listener_filters=[proxy_protocol] if options.status_proxy_protocol else [],
    )


def _secure(options: BootstrapOptions, port: int, stat_prefix: str, routes: list[Json]) -> Json:
    inspector = {
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": f"{_TYPE}filters.listener.tls_inspector.v3.TlsInspector"},
    }
    chain = {
        "filter_chain_match": {"transport_protocol": "tls"},
        "transport_socket": mesh_server_tls(),
        "filters": [_connection_manager(stat_prefix, routes)],
    }
    return _listener(options.families.wildcard, port, chain, listener_filters=[inspector])


def _listener(
    host: str,
    port: int,
    chain: Json,
    *,
    second_host: str = "",
    listener_filters: Sequence[Json] = (),
) -> Json:
    listener: Json = {
        "name": f"{host}_{port}",
        "address": tcp_address(host, port),
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
    }
    if second_host:
        listener["additionalAddresses"] = [{"address": tcp_address(second_host, port)}]
    if listener_filters:
        listener["listener_filters"] = list(listener_filters)
    return listener | {"filter_chains": [chain]}


def _connection_manager(stat_prefix: str, routes: list[Json], filters: Sequence[Json] = ()) -> Json:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"},
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
            "codec_type": "AUTO",
            "stat_prefix": stat_prefix,
            "route_config": {"virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": routes}]},
            "http_filters": [*filters, router],
        },
    }


def _route(prefix: str, cluster: str) -> Json:
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster}}


def _compressor(name: str) -> Json:
    return {
        "name": f"envoy.filters.http.compressor.{name}",
        "typed_config": {
            "@type": f"{_TYPE}filters.http.compressor.v3.Compressor",
            "compressor_library": {
                "name": f"stats_{name}",
                "typed_config": {"@type": f"{_TYPE}compression.{name}.compressor.v3.{name.capitalize()}"},
            },
            "response_direction_config": {"common_config": {"content_type": list(_COMPRESSED)}},
        },
    }
