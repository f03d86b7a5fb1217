"""The parameters of custom templates.

Source: the reference's bootstrap, table "Parameters of custom templates". A parameter of it that has no value
here prints `<no value>`, as in the reference; a name that is not in it is refused, there it prints the same.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.clusters import keepalive
from pilot_agent.bootstrap.endpoints import service_address
from pilot_agent.bootstrap.limits import max_downstream_connections
from pilot_agent.bootstrap.options import BootstrapOptions
from pilot_agent.bootstrap.stats import extra_stat_tags, histogram_buckets, inclusion_lists, stats_intervals
from pilot_agent.bootstrap.tls import upstream_tls
from pilot_agent.bootstrap.tracing import tracer
from pilot_agent.proxyconfig.schema import MESSAGES

Parameters = dict[str, Any]  # Any: texts, numbers, lists and mappings

_ZEROS: Final = {
    "string": "",
    "bool": False,
    "int32": 0,
    "uint32": 0,
    "map string": {},
    "repeated string": [],
}


NO_VALUE: Final = "<no value>"
_MAYBE_MISSING: Final = (
    *("region", "zone", "sub_zone", "additional_localhost", "additional_wildcard", "custom_file_path"),
    *(
        "xds_root_cert",
        "outlier_log_path",
        "load_stats_config_json_str",
        "extraStatTags",
        "histogram_buckets",
    ),
    *("stats_flush_interval", "stats_eviction_interval", "zipkin", "lightstep", "datadog", "statsd"),
    *("envoy_metrics_service_address", "envoy_accesslog_service_address", "lightstepToken", "tracing_tls"),
    *("envoy_metrics_service_tls", "envoy_metrics_service_tcp_keepalive", "envoy_accesslog_service_tls"),
    *("envoy_accesslog_service_tcp_keepalive", "stackdriver", "stackdriverProjectID", "stackdriverDebug"),
    *("stackdriverMaxAnnotations", "stackdriverMaxAttributes", "stackdriverMaxEvents"),
    *("gcp_project_id", "gcp_project_number"),
)
_GO_NAMES: Final = {
    "ISTIO_VERSION": "IstioVersion",
    "ISTIO_REVISION": "IstioRevision",
    "NODE_NAME": "NodeName",
    "WORKLOAD_NAME": "WorkloadName",
    "INTERCEPTION_MODE": "InterceptionMode",
    "HTTP_PROXY_PORT": "HTTPProxyPort",
    "MESH_ID": "MeshID",
    "CLUSTER_ID": "ClusterID",
    "NETWORK": "Network",
    "NAMESPACE": "Namespace",
    "SERVICE_ACCOUNT": "ServiceAccount",
    "LABELS": "Labels",
    "STATIC_LABELS": "StaticLabels",
    "ANNOTATIONS": "Annotations",
    "PLATFORM_METADATA": "PlatformMetadata",
    "TLS_SERVER_CERT_CHAIN": "TLSServerCertChain",
    "TLS_SERVER_KEY": "TLSServerKey",
    "TLS_SERVER_ROOT_CERT": "TLSServerRootCert",
    "TLS_CLIENT_CERT_CHAIN": "TLSClientCertChain",
    "TLS_CLIENT_KEY": "TLSClientKey",
    "TLS_CLIENT_ROOT_CERT": "TLSClientRootCert",
    "STS_PORT": "StsPort",
    "OUTLIER_LOG_PATH": "OutlierLogPath",
    "ENVOY_STATUS_PORT": "EnvoyStatusPort",
    "ENVOY_PROMETHEUS_PORT": "EnvoyPrometheusPort",
    "IDLE_TIMEOUT": "IdleTimeout",
    "HTTP10": "HTTP10",
    "GENERATOR": "Generator",
    "OWNER": "Owner",
}
_STACKDRIVER: Final = {
    "maxNumberOfAnnotations": "stackdriverMaxAnnotations",
    "maxNumberOfAttributes": "stackdriverMaxAttributes",
    "maxNumberOfMessageEvents": "stackdriverMaxEvents",
}
_STACKDRIVER_DEFAULT: Final = "200"


def parameters(options: BootstrapOptions) -> Parameters:
    """Return every parameter that holds for these options."""
    given = _node(options) | _addresses(options) | _discovery(options) | _ports(options) | _optional(options)
    given |= _stats(options) | _services(options) | _google(options)
    return {**dict.fromkeys(_MAYBE_MISSING, NO_VALUE), **given}


def _node(options: BootstrapOptions) -> Parameters:
    return {
        "config": _config(options.proxy_config.document),
        "metadata": {go: options.metadata.get(name, "") for name, go in _GO_NAMES.items()},
        "meta_json_str": _json(options.metadata),
        "runtime_flags": _json(options.runtime_flags),
        "nodeID": options.node_id,
        "nodeType": options.role,
        "cluster": options.cluster,
        "xds_type": "DELTA_GRPC" if options.delta_xds else "GRPC",
        "metadata_discovery": options.metadata_discovery,
        "workload_identity_socket_file": options.agent.socket_file,
        "log_json": options.flags.log_as_json,
        "enable_self_discovery": options.self_discovery,
        "metrics_localhost_access_only": options.metrics_localhost_only,
        "global_downstream_max_connections": max_downstream_connections(options.proxy_config.document),
        "sts": True,
        "sts_port": options.agent.sts_port,
        **options.locality,
    }


def _addresses(options: BootstrapOptions) -> Parameters:
    families = options.families
    found: Parameters = {
        "localhost": families.localhost,
        "wildcard": families.wildcard,
        "dns_lookup_family": families.dns_lookup_family,
        "dual_stack": bool(families.second_wildcard),
    }
    if families.second_wildcard:
        found["additional_localhost"] = families.second_localhost
        found["additional_wildcard"] = families.second_wildcard
    return found


def _discovery(options: BootstrapOptions) -> Parameters:
    address = options.proxy_config.discovery_address
    return {
        "discovery_address": address,
        "discovery_host": address.partition(":")[0],
        "pilot_grpc_address": _address_json(options, "discovery", address),
        "pilot_SAN": _json([{"exact": name} for name in options.agent.pilot_san]),
    }


def _ports(options: BootstrapOptions) -> Parameters:
    return {
        "envoy_status_port": options.agent.status_port,
        "envoy_prometheus_port": options.agent.prometheus_port,
        "secure_metrics_port": options.agent.secure_metrics_port,
        "secure_merged_metrics_port": options.agent.secure_merged_metrics_port,
        "envoy_status_port_enable_proxy_protocol": options.status_proxy_protocol,
    }


def _optional(options: BootstrapOptions) -> Parameters:
    found = Parameters()
    if options.agent.outlier_log_path:
        found["outlier_log_path"] = options.agent.outlier_log_path
    if options.load_stats_config is not None:
        found["load_stats_config_json_str"] = _json(options.load_stats_config)
    return found


def _stats(options: BootstrapOptions) -> Parameters:
    document, annotations = options.proxy_config.document, options.annotations
    lists = inclusion_lists(
        document,
        annotations,
        options.ip_addresses,
        exit_on_zero_active_connections=options.agent.exit_on_zero_active_connections,
    )
    given = {"extraStatTags": extra_stat_tags(document, annotations), **stats_intervals(annotations)}
    given["histogram_buckets"] = histogram_buckets(annotations)
    return {name: value for name, value in given.items() if value} | {
        "inclusionPrefix": lists["Prefixes"],
        "inclusionSuffix": lists["Suffixes"],
        "inclusionRegexps": lists["Regexps"],
        "envoy_metrics_stats_compression": options.stats_compression,
    }


def _services(options: BootstrapOptions) -> Parameters:
    """Return addresses, TLS and keepalive of the services of ProxyConfig, as JSON texts."""
    statsd, found = options.proxy_config.document.get("statsdUdpAddress", ""), Parameters()
    addresses = {"statsd": statsd}
    if in_use := tracer(options.tracing):
        addresses[in_use.kind] = in_use.address
    if token := options.tracing.get("lightstep", {}).get("accessToken", ""):
        found["lightstepToken"] = token
    found |= _tls(options, "tracing_tls", options.tracing, "tracer")
    for name, service in (
        ("envoy_metrics_service", options.metrics_service),
        ("envoy_accesslog_service", options.access_log_service),
    ):
        addresses[f"{name}_address"] = service.get("address", "")
        found |= _tls(options, f"{name}_tls", service, name)
        if alive := keepalive(service.get("tcpKeepalive", {})):
            found[f"{name}_tcp_keepalive"] = _json(alive["upstream_connection_options"])
    return found | {
        name: _address_json(options, name, address) for name, address in addresses.items() if address
    }


def _tls(options: BootstrapOptions, name: str, service: Mapping[str, Any], default_sni: str) -> Parameters:
    grpc = name != "tracing_tls" or "lightstep" in service
    made = upstream_tls(service.get("tlsSettings", {}), options.metadata, alpn=grpc, default_sni=default_sni)
    return {name: _json(made["transport_socket"])} if made else {}


def _google(options: BootstrapOptions) -> Parameters:
    platform, found = options.agent.platform, Parameters()
    if "gcp_project_number" in platform:
        found["gcp_project_number"] = platform["gcp_project_number"]
    if "gcp_project" in platform and options.agent.sts_port:
        found["gcp_project_id"] = platform["gcp_project"]
    settings = options.tracing.get("stackdriver")
    if settings is None:
        return found
    found |= {"stackdriver": True, "stackdriverProjectID": platform.get("gcp_project", "")}
    found["stackdriverDebug"] = settings.get("debug", False)
    return found | {go: int(settings.get(name, _STACKDRIVER_DEFAULT)) for name, go in _STACKDRIVER.items()}


def _address_json(options: BootstrapOptions, what: str, text: str) -> str:
    address = service_address(what, text, options.host_ip)
    return f'{{"address": {_json(address["address"])}, "port_value": {address["port_value"]}}}'


def _config(document: Mapping[str, Any]) -> Parameters:
    """Return ProxyConfig's plain members under Go's field names, zero ones too."""
    return {
        name[0].upper() + name[1:]: document.get(name, _ZEROS[kind])
        for name, kind in MESSAGES["ProxyConfig"].items()
        if kind in _ZEROS
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
