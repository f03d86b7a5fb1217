"""The parts that many resources share: names, TLS contexts, filters. As in a config_dump of Istio."""

from copy import deepcopy
from typing import Any

from envoy.extensions.filters.http.cors.v3 import cors_pb2 as _cors  # noqa: F401 - registers its type
from envoy.extensions.filters.http.fault.v3 import fault_pb2 as _fault  # noqa: F401
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as _grpc_stats  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router  # noqa: F401
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2 as _inspector  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as _hcm,  # noqa: F401
)
from envoy.extensions.request_id.uuid.v3 import uuid_pb2 as _uuid  # noqa: F401
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2 as _previous  # noqa: F401
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2 as _raw  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as _tls  # noqa: F401
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from lab.mesh import Address, Service
from lab.snapshot import Resource

Json = dict[str, Any]  # Any: the JSON form of Envoy's API, checked by ParseDict
_TYPES = "type.googleapis.com/envoy.extensions."

ADS: Json = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}

NO_LIMITS: Json = {
    "thresholds": [
        dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), 4294967295)
    ]
}

RETRY: Json = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": _TYPES + "retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": "5",
}

_TLS_PARAMETERS: Json = {
    "tls_minimum_protocol_version": "TLSv1_2",
    "tls_maximum_protocol_version": "TLSv1_3",
}


def resource(name: str, type_url: str, message: Message, shape: Json) -> Resource:
    """Encode a JSON shape as the given message.

    Raises:
        google.protobuf.json_format.ParseError: a member is unknown or of the wrong type.
    """
    # ParseDict takes "@type" out of an Any while it parses it, and shapes are shared between threads.
    own = deepcopy(shape)
    return Resource.of(name, type_url, ParseDict(own, message).SerializeToString(deterministic=True))


def outbound_name(host: str, service: Service, subset: str = "") -> str:
    return f"outbound|{service.port}|{subset}|{host}"


def inbound_name(application: Address) -> str:
    """Return `inbound|PORT||`, named after the application's port as in a sidecar of Istio."""
    return f"inbound|{application.port}||"


def listener_name(address: Address) -> str:
    """Return `HOST_PORT`, as Istio names listeners that bind their port themselves."""
    return f"{address.host}_{address.port}"


def socket_address(address: Address) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def upstream_tls(*, sni: str, spiffe_id: str) -> Json:
    """mTLS towards another workload, whose SPIFFE ID must be exactly this one."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TYPES + "transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"alpn_protocols": ["istio"], **_identity({"exact": spiffe_id})},
            "sni": sni,
        },
    }


def downstream_tls(trust_domain: str) -> Json:
    """mTLS from another workload of the same trust domain; a client without certificate is refused."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TYPES + "transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                **_identity({"prefix": f"spiffe://{trust_domain}/"}),
            },
            "require_client_certificate": True,
        },
    }


def _identity(san: Json) -> Json:
    return {
        "tls_params": _TLS_PARAMETERS,
        "tls_certificate_sds_secret_configs": [_sds("default")],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": san}]
            },
            "validation_context_sds_secret_config": _sds("ROOTCA"),
        },
    }


def _sds(name: str) -> Json:
    return {
        "name": name,
        "sds_config": {
            "api_config_source": {
                "api_type": "GRPC",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
                "set_node_on_first_message_only": True,
                "transport_api_version": "V3",
            },
            "initial_fetch_timeout": "0s",
            "resource_api_version": "V3",
        },
    }


def raw_buffer() -> Json:
    return {
        "name": "envoy.transport_sockets.raw_buffer",
        "typed_config": {"@type": _TYPES + "transport_sockets.raw_buffer.v3.RawBuffer"},
    }


def tls_inspector() -> Json:
    return {
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": _TYPES + "filters.listener.tls_inspector.v3.TlsInspector"},
    }


def http_connection_manager(stat_prefix: str, **more: Any) -> Json:
    """Return the HTTP filter with Istio's settings; `more` brings routes and what differs by direction."""
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": stat_prefix,
            "http_filters": [
                _filter("grpc_stats.v3.FilterConfig", emit_filter_state=True, stats_for_all_methods=False),
                _filter("fault.v3.HTTPFault"),
                _filter("cors.v3.Cors"),
                _filter("router.v3.Router"),
            ],
            "proxy_100_continue": True,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "stream_idle_timeout": "0s",
            "normalize_path": True,
            "request_id_extension": {
                "typed_config": {
                    "@type": _TYPES + "request_id.uuid.v3.UuidRequestIdConfig",
                    "use_request_id_for_trace_sampling": True,
                }
            },
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            **more,
        },
    }


def _filter(kind: str, **settings: object) -> Json:
    name = kind.partition(".")[0]
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_TYPES}filters.http.{kind}", **settings},
    }
