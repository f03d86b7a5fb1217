"""The parameters of custom templates.

Source: the reference's bootstrap, table "Parameters of custom templates". `metadata` with Go's field
names is not offered; `meta_json_str` has all of it.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.endpoints import service_address
from pilot_agent.bootstrap.limits import max_downstream_connections
from pilot_agent.bootstrap.options import BootstrapOptions
from pilot_agent.bootstrap.stats import extra_stat_tags, stats_intervals
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


def parameters(options: BootstrapOptions) -> Parameters:
    """Return every parameter that holds for these options."""
    return _node(options) | _addresses(options) | _discovery(options) | _ports(options) | _optional(options)


def _node(options: BootstrapOptions) -> Parameters:
    return {
        "config": _config(options.proxy_config.document),
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
    document, found = options.proxy_config.document, Parameters(stats_intervals(options.annotations))
    if options.agent.outlier_log_path:
        found["outlier_log_path"] = options.agent.outlier_log_path
    if options.load_stats_config is not None:
        found["load_stats_config_json_str"] = _json(options.load_stats_config)
    if tags := extra_stat_tags(document, options.annotations):
        found["extraStatTags"] = tags
    services = {
        "statsd": document.get("statsdUdpAddress", ""),
        "envoy_metrics_service_address": options.metrics_service.get("address", ""),
        "envoy_accesslog_service_address": options.access_log_service.get("address", ""),
    }
    if in_use := tracer(options.tracing):
        services[in_use.kind] = in_use.address
    return found | {
        name: _address_json(options, name, address) for name, address in services.items() if address
    }


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
