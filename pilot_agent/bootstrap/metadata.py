"""The node metadata: typed members, each from its source, and all the untyped rest.

Source: the reference's bootstrap, section "metadata".
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.errors import BootstrapError
from pilot_agent.bootstrap.untyped import Members
from pilot_agent.gotext import parse_bool

_TEXTS: Final = (
    "ISTIO_VERSION",
    "ISTIO_REVISION",
    "NODE_NAME",
    "WORKLOAD_NAME",
    "INTERCEPTION_MODE",
    "HTTP_PROXY_PORT",
    "MESH_ID",
    "CLUSTER_ID",
    "NETWORK",
    "TLS_SERVER_CERT_CHAIN",
    "TLS_SERVER_KEY",
    "TLS_SERVER_ROOT_CERT",
    "TLS_CLIENT_CERT_CHAIN",
    "TLS_CLIENT_KEY",
    "TLS_CLIENT_ROOT_CERT",
    "BASE",
    "IDLE_TIMEOUT",
    "HTTP10",
    "GENERATOR",
    "AUTO_REGISTER_GROUP",
    "WORKLOAD_ENTRY",
    "UNPRIVILEGED_POD",
    "CLOUDRUN_ADDR",
    "DNS_PROXY_ADDR",
    "OWNER",
    "APP_CONTAINERS",
    "ISTIO_PROXY_SHA",
    "NAME",
    "NAMESPACE",
    "SERVICE_ACCOUNT",
    "REQUESTED_NETWORK_VIEW",
    "INSTANCE_IPS",
    "STS_PORT",
    "OUTLIER_LOG_PATH",
    "WORKLOAD_IDENTITY_SOCKET_FILE",
    "credential",
    "file-credential",
)
_BOOLS: Final = (
    "ENABLE_SELF_DISCOVERY",
    "DNS_CAPTURE",
    "DNS_AUTO_ALLOCATE",
    "ENABLE_HBONE",
    "DISABLE_HBONE_SEND",
    "INBOUND_LISTENER_EXACT_BALANCE",
    "OUTBOUND_LISTENER_EXACT_BALANCE",
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS",
    "ENVOY_SKIP_DEPRECATED_LOGS",
    "METADATA_DISCOVERY",
)
_INTEGERS: Final = (
    "ENVOY_STATUS_PORT",
    "ENVOY_PROMETHEUS_PORT",
    "ENVOY_SECURE_METRICS_PORT",
    "ENVOY_SECURE_MERGED_METRICS_PORT",
)
_OBJECTS: Final = ("PROXY_CONFIG",)
_MAPS: Final = ("LABELS", "STATIC_LABELS", "ANNOTATIONS", "PLATFORM_METADATA")


class AgentMembers(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent itself knows and writes over whatever the environment says."""

    proxy_config: Mapping[str, Any]  # canonical JSON
    istio_version: str
    instance_ips: tuple[str, ...]
    name: str
    namespace: str
    service_account: str
    labels: Mapping[str, str]
    static_labels: Mapping[str, str]
    annotations: Mapping[str, str]
    platform: Mapping[str, str]
    pilot_san: tuple[str, ...]
    sts_port: int
    outlier_log_path: str
    status_port: int
    prometheus_port: int
    secure_metrics_port: int
    secure_merged_metrics_port: int
    socket_file: str
    peer_metadata_discovery: bool | None  # None: follows ENABLE_HBONE
    exit_on_zero_active_connections: bool
    skip_deprecated_logs: bool
    credential_socket: bool
    file_credential: bool


def typed(untyped: Members) -> Members:
    """Return the members that have a type, decoded; the zero ones are kept.

    Raises:
        BootstrapError: a value does not fit its type.
    """
    members: Members = {}
    for names, decode in _DECODERS:
        for name in names:
            if untyped.get(name) is not None:
                try:
                    members[name] = decode(untyped[name])
                except ValueError as error:
                    raise BootstrapError.of_metadata(f"metadata member {name}: {error}") from None
    return members


def node_metadata(untyped: Members, members: Members, agent: AgentMembers) -> Members:
    """Return the final metadata: typed members that are not empty, then the untyped rest."""
    final = members | _own(agent) | _where_given(agent)
    if not members.get("ISTIO_VERSION"):
        final["ISTIO_VERSION"] = agent.istio_version
    discovery = agent.peer_metadata_discovery
    final["METADATA_DISCOVERY"] = members.get("ENABLE_HBONE", False) if discovery is None else discovery
    shown = {name: _shown(value) for name, value in final.items() if value or name == "METADATA_DISCOVERY"}
    return {name: value for name, value in untyped.items() if name not in shown} | shown


def _own(agent: AgentMembers) -> Members:
    """Return the members that the agent's values replace even where they are empty."""
    return {
        "PROXY_CONFIG": dict(agent.proxy_config),
        "INSTANCE_IPS": ",".join(dict.fromkeys(agent.instance_ips)),
        "ENVOY_STATUS_PORT": agent.status_port,
        "ENVOY_PROMETHEUS_PORT": agent.prometheus_port,
        "ENVOY_SECURE_METRICS_PORT": agent.secure_metrics_port,
        "ENVOY_SECURE_MERGED_METRICS_PORT": agent.secure_merged_metrics_port,
        "PILOT_SAN": list(agent.pilot_san),
        "OUTLIER_LOG_PATH": agent.outlier_log_path,
        "WORKLOAD_IDENTITY_SOCKET_FILE": agent.socket_file,
        "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": agent.exit_on_zero_active_connections,
        "ENVOY_SKIP_DEPRECATED_LOGS": agent.skip_deprecated_logs,
    }


def _where_given(agent: AgentMembers) -> Members:
    """Return the members that replace only where the agent has a value."""
    given: Members = {
        "NAME": agent.name,
        "NAMESPACE": agent.namespace,
        "SERVICE_ACCOUNT": agent.service_account,
        "LABELS": dict(agent.labels),
        "STATIC_LABELS": dict(agent.static_labels),
        "ANNOTATIONS": dict(agent.annotations),
        "PLATFORM_METADATA": dict(agent.platform),
        "STS_PORT": str(agent.sts_port or ""),
        "credential": agent.credential_socket,
        "file-credential": agent.file_credential,
    }
    return {name: value for name, value in given.items() if value}


def _shown(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r}")  # noqa: TRY004  # one kind of error for all
    return value


def _bool(value: object) -> bool:
    return parse_bool(_text(value))


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected an integer, got {value!r}")  # noqa: TRY004
    return value


def _map(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object of texts, got {value!r}")  # noqa: TRY004
    return {key: _text(item) for key, item in value.items()}


def _object(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {value!r}")  # noqa: TRY004
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of texts, got {value!r}")  # noqa: TRY004
    return [_text(item) for item in value]


class _Port(msgspec.Struct, omit_defaults=True):
    """One entry of POD_PORTS; other members are lost."""

    name: str = ""
    containerPort: int = 0  # noqa: N815  # the member's name
    protocol: str = ""


def _ports(value: object) -> str:
    ports = msgspec.json.decode(_text(value), type=list[_Port])
    return msgspec.json.encode(ports).decode()


_DECODERS: Final[tuple[tuple[tuple[str, ...], Callable[[object], object]], ...]] = (
    (_TEXTS, _text),
    (_BOOLS, _bool),
    (_INTEGERS, _integer),
    (_OBJECTS, _object),
    (_MAPS, _map),
    (("PILOT_SAN",), _texts),
    (("POD_PORTS",), _ports),
)
