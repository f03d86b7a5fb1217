"""`static_resources.clusters`: Envoy's way to the agent, to itself and to the services of ProxyConfig.

Source: the reference's bootstrap, section "static_resources.clusters".
"""

from collections.abc import Mapping
from typing import Any, Final

from pilot_agent.bootstrap.endpoints import service_address, tcp_address
from pilot_agent.bootstrap.options import BootstrapOptions
from pilot_agent.bootstrap.tls import upstream_tls
from pilot_agent.bootstrap.tracing import tracer
from pilot_agent.environment import duration_s

Json = dict[str, Any]  # Any: JSON values

_HTTP2: Final = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}
_LIMITS: Final = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
_SDS_DIR: Final = "./var/run/secrets/workload-spiffe-uds"
_FILES_SOCKET: Final = "./var/run/secrets/credential-uds/files-socket"


def clusters(options: BootstrapOptions, *, admin_port: int) -> list[Json]:
    """Return all clusters that hold for these options, in the reference's order."""
    config = options.proxy_config
    found = [
        _local_port("prometheus_stats", options.families.localhost, admin_port),
        _local_port("agent", options.families.localhost, config.status_port),
        _pipe("sds-grpc", f"{_SDS_DIR}/{options.agent.socket_file}"),
    ]
    if options.agent.file_credential:
        found.append(_pipe("sds-files-grpc", _FILES_SOCKET))
    found.append(_xds(config.config_path))
    found += _tracer(options)
    found += _grpc_service(options, "envoy_metrics_service", options.metrics_service)
    found += _grpc_service(options, "envoy_accesslog_service", options.access_log_service)
    if options.self_discovery:
        found.append(_self_discovery())
    return found


def _cluster(name: str, kind: str, connect_timeout: str, address: Json) -> Json:
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": kind,
        "connect_timeout": connect_timeout,
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _local_port(name: str, host: str, port: int) -> Json:
    return _cluster(name, "STATIC", "0.250s", tcp_address(host, port))


def _pipe(name: str, path: str) -> Json:
    return _cluster(name, "STATIC", "1s", {"pipe": {"path": path}}) | _HTTP2


def _xds(config_path: str) -> Json:
    return _pipe("xds-grpc", f"{config_path}/XDS") | {
        "circuit_breakers": {
            "thresholds": [{"priority": priority} | _LIMITS for priority in ("DEFAULT", "HIGH")]
        },
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 300}},
        "max_requests_per_connection": 1,
    }


def _service(options: BootstrapOptions, name: str, address: Json) -> Json:
    return _cluster(name, "STRICT_DNS", "1s", {"socket_address": address}) | {
        "respect_dns_ttl": True,
        "dns_lookup_family": options.families.dns_lookup_family,
    }


def _tracer(options: BootstrapOptions) -> list[Json]:
    found = tracer(options.tracing)
    if found is None:
        return []
    cluster = _service(options, found.cluster, service_address(found.kind, found.address, options.host_ip))
    if found.kind == "zipkin":
        cluster["dns_refresh_rate"] = "30s"
    grpc = found.kind == "lightstep"
    tls = upstream_tls(
        options.tracing.get("tlsSettings", {}), options.metadata, alpn=grpc, default_sni="tracer"
    )
    return [cluster | tls | (_HTTP2 if grpc else {})]


def _grpc_service(options: BootstrapOptions, name: str, service: Mapping[str, Any]) -> list[Json]:
    if not service.get("address"):
        return []
    cluster = _service(options, name, service_address(name, service["address"], options.host_ip))
    tls = upstream_tls(service.get("tlsSettings", {}), options.metadata, alpn=True, default_sni=name)
    return [cluster | _HTTP2 | tls | keepalive(service.get("tcpKeepalive", {}))]


def keepalive(settings: Mapping[str, Any]) -> Json:
    """Return the `upstream_connection_options` member for a service's `tcpKeepalive`, or nothing."""
    values = {
        "keepalive_probes": settings.get("probes", 0),
        "keepalive_time": int(duration_s(settings.get("time", "0s"))),
        "keepalive_interval": int(duration_s(settings.get("interval", "0s"))),
    }
    given = {name: value for name, value in values.items() if value > 0}
    return {"upstream_connection_options": {"tcp_keepalive": given}} if given else {}


def _self_discovery() -> Json:
    policy = {
        "name": "envoy.load_balancing_policies.least_request",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3"
            ".LeastRequest",
            "locality_lb_config": {"zone_aware_lb_config": {"min_cluster_size": "1"}},
        },
    }
    return {
        "name": "local_cluster",
        "alt_stat_name": "local_cluster;",
        "type": "EDS",
        "connect_timeout": "1s",
        "load_balancing_policy": {"policies": [{"typed_extension_config": policy}]},
        "eds_cluster_config": {
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
            "service_name": "local_cluster",
        },
    }
