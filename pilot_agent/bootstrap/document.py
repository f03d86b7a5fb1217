"""Envoy's configuration as a whole: settings in, document out, no clock and no files.

Source: the reference's bootstrap; what differs for a hot restart is named at its function.
"""

import posixpath
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.clusters import clusters
from pilot_agent.bootstrap.endpoints import service_address
from pilot_agent.bootstrap.limits import overload_manager
from pilot_agent.bootstrap.listeners import listeners
from pilot_agent.bootstrap.options import BootstrapOptions
from pilot_agent.bootstrap.runtime import layered_runtime
from pilot_agent.bootstrap.stats import stats_config, stats_intervals, stats_sinks
from pilot_agent.bootstrap.tracing import check_project, tracer, tracing_section

Json = dict[str, Any]  # Any: JSON values

GENERATION_HEADER: Final = "x-envoy-generation"
"""gRPC metadata by which the agent's ADS server tells two generations of Envoy apart."""

_TEXT_LOG: Final = "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t"
_JSON_LOG: Final = {
    "time": "%Y-%m-%dT%T.%fZ",
    "level": "%l",
    "scope": "envoy %n",
    "msg": "%j",
    "caller": "%g:%#",
    "thread": "%t",
}


def render(
    options: BootstrapOptions, *, generation: int | None = None, admin_port: int | None = None
) -> bytes:
    """Return the bytes of Envoy's configuration file.

    Args:
        options: What holds for this agent.
        generation: Of this Envoy, told to the agent's ADS server; None (policy `sds`) leaves it out.
        admin_port: Instead of ProxyConfig's, for an Envoy that overlaps with another one.

    Raises:
        BootstrapError: an address or the custom template cannot be rendered.
    """
    check_project(options.tracing, options.agent.platform)
    if options.template is not None:
        from pilot_agent.bootstrap.template import expand  # noqa: PLC0415  # hardly anybody has one
        from pilot_agent.bootstrap.template_parameters import parameters  # noqa: PLC0415

        return expand(options.template.text, parameters(options)).encode()
    whole = document(options, generation=generation, admin_port=admin_port)
    return msgspec.json.format(msgspec.json.encode(whole), indent=2)


def document(
    options: BootstrapOptions, *, generation: int | None = None, admin_port: int | None = None
) -> Json:
    """Return the standard document; arguments and errors as for `render`."""
    port = admin_port or options.proxy_config.proxy_admin_port
    sections: Json = {
        "application_log_config": application_log_config(as_json=options.flags.log_as_json),
        "node": node(options),
        "layered_runtime": layered_runtime(options.runtime_flags),
        "bootstrap_extensions": bootstrap_extensions(metadata_discovery=options.metadata_discovery),
        **stats_intervals(options.annotations),
        "stats_config": stats_config(
            options.proxy_config.document,
            options.annotations,
            options.ip_addresses,
            metadata_discovery=options.metadata_discovery,
            exit_on_zero_active_connections=options.agent.exit_on_zero_active_connections,
        ),
        "admin": admin(options.families.localhost, port),
        "dynamic_resources": dynamic_resources(delta=options.delta_xds, generation=generation),
        "static_resources": {
            "clusters": clusters(options, admin_port=port),
            "listeners": listeners(options),
        },
        "overload_manager": overload_manager(options.proxy_config.document),
        "tracing": tracing(options),
        "stats_sinks": sinks(options),
        "cluster_manager": cluster_manager(options),
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    return {name: section for name, section in sections.items() if section}


def application_log_config(*, as_json: bool) -> Json:
    """Return the form of Envoy's log lines; Envoy refuses `--log-format` beside it."""
    return {"log_format": {"json_format": dict(_JSON_LOG)} if as_json else {"text_format": _TEXT_LOG}}


def node(options: BootstrapOptions) -> Json:
    """Return who Envoy says it is."""
    return {
        "id": options.node_id,
        "cluster": options.cluster,
        "locality": dict(options.locality),
        "metadata": options.metadata,
    }


def bootstrap_extensions(*, metadata_discovery: bool) -> list[Json]:
    """Return the extensions; the discovery of metadata is known to Istio's build of Envoy only."""
    extensions = [
        _extension(
            "envoy.bootstrap.internal_listener",
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            {"buffer_size_kb": 64},
        )
    ]
    if metadata_discovery:
        value: Json = {"config_source": {"ads": {}}}
        extensions.insert(0, _extension("metadata_discovery", "istio.workload.BootstrapExtension", value))
    return extensions


def admin(localhost: str, port: int) -> Json:
    """Return the admin port, without an access log."""
    log = {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "/dev/null",
        },
    }
    return {
        "access_log": [log],
        "profile_path": "/var/lib/istio/data/envoy.prof",
        "address": {"socket_address": {"address": localhost, "port_value": port}},
    }


def dynamic_resources(*, delta: bool, generation: int | None) -> Json:
    """Return the way to the agent's ADS server.

    With a generation, Envoy names it in the metadata of its stream: during a hot restart two Envoys
    hold a stream each, and the server must not take the new one for the old one's successor.
    """
    source = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    service: Json = {"envoy_grpc": {"cluster_name": "xds-grpc"}}
    if generation is not None:
        service["initial_metadata"] = [{"key": GENERATION_HEADER, "value": str(generation)}]
    return {
        "lds_config": source,
        "cds_config": dict(source),
        "ads_config": {
            "api_type": "DELTA_GRPC" if delta else "GRPC",
            "set_node_on_first_message_only": True,
            "transport_api_version": "V3",
            "grpc_services": [service],
        },
    }


def tracing(options: BootstrapOptions) -> Json:
    """Return the tracer, or nothing."""
    found = tracer(options.tracing)
    if found is None:
        return {}
    token_file = lightstep_token_file(options)
    return tracing_section(found.kind, service_name=options.cluster, token_file=token_file)


def lightstep_token_file(options: BootstrapOptions) -> str:
    """Return the path of the file that Envoy reads Lightstep's token from; its writer is the actor."""
    return posixpath.normpath(f"{options.proxy_config.config_path}/lightstep_access_token.txt")


def sinks(options: BootstrapOptions) -> list[Json]:
    """Return where Envoy sends its statistics."""
    statsd = options.proxy_config.document.get("statsdUdpAddress", "")
    address = service_address("statsd", statsd, options.host_ip) if statsd else None
    return stats_sinks(metrics_service=bool(options.metrics_service.get("address")), statsd=address)


def cluster_manager(options: BootstrapOptions) -> Json:
    """Return the section, which is missing as a whole unless one of its three causes is there."""
    section: Json = {}
    if options.self_discovery:
        section["local_cluster_name"] = "local_cluster"
    if options.agent.outlier_log_path:
        section["outlier_detection"] = {"event_log_path": options.agent.outlier_log_path}
    if options.load_stats_config is not None:
        section["load_stats_config"] = options.load_stats_config
    return section | {"enable_deferred_cluster_creation": True} if section else {}


def _extension(name: str, type_name: str, value: Json) -> Json:
    return {
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": f"type.googleapis.com/{type_name}",
            "value": value,
        },
    }
