"""The variables, files and rules from which `BootstrapOptions` is put together, one function each."""

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.errors import BootstrapError
from pilot_agent.bootstrap.identity import locality_label
from pilot_agent.bootstrap.metadata import AgentMembers
from pilot_agent.bootstrap.override import read_override
from pilot_agent.bootstrap.platform import Platform
from pilot_agent.bootstrap.untyped import Members, static_labels
from pilot_agent.environment import Environment
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig import Loaded, ProxyConfig
from pilot_agent.proxyconfig.text import valid_text
from pilot_agent.unreadable import UNREADABLE

_log = get_logger()

_STANDARD: Final = "var/lib/istio/envoy/envoy_bootstrap_tmpl.json"
"""Where the reference's image has its template. Ours needs none, and reads no conditions and loops."""
_LOCALITY: Final = "istio-locality"
_YAML: Final = (".yaml", ".yaml.tmpl")


class Template(msgspec.Struct, frozen=True):
    """A custom template."""

    name: str
    text: str

    @property
    def suffix(self) -> str:
        """The file name extension of what comes of it: Envoy chooses its parser by that."""
        return "yaml" if self.name.endswith(_YAML) else "json"


def agent_members(
    environment: Environment,
    loaded: Loaded,
    platform: Platform,
    *,
    istio_version: str,
    credential_socket: bool,
    external_sds: bool,
) -> AgentMembers:
    """Return the metadata that the agent itself knows; arguments as for `BootstrapOptions.build`."""
    config, flags = loaded.proxy_config, loaded.flags
    labels, static = _labels(environment, loaded.labels, platform)
    return AgentMembers(
        proxy_config=config.document,
        istio_version=istio_version,
        instance_ips=loaded.node.ip_addresses,
        name=valid_text(environment.string("POD_NAME")),
        namespace=valid_text(environment.string("POD_NAMESPACE")),
        service_account=valid_text(environment.string("SERVICE_ACCOUNT")),
        labels=labels,
        static_labels=static,
        annotations=loaded.annotations or {},
        platform=platform.metadata,
        pilot_san=pilot_san(config),
        sts_port=flags.sts_port,
        outlier_log_path=flags.outlier_log_path,
        status_port=environment.integer("ENVOY_STATUS_PORT", 15021),
        prometheus_port=environment.integer("ENVOY_PROMETHEUS_PORT", 15090),
        secure_metrics_port=environment.integer("ENVOY_SECURE_METRICS_PORT", 0),
        secure_merged_metrics_port=environment.integer("ENVOY_SECURE_MERGED_METRICS_PORT", 0),
        socket_file=valid_text(environment.string("WORKLOAD_IDENTITY_SOCKET_FILE", "socket")),
        peer_metadata_discovery=environment.optional_boolean("PEER_METADATA_DISCOVERY"),
        exit_on_zero_active_connections=environment.boolean("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", False),
        skip_deprecated_logs=environment.boolean("ENVOY_SKIP_DEPRECATED_LOGS", True),
        credential_socket=credential_socket,
        file_credential=external_sds,
    )


def pilot_san(config: ProxyConfig) -> tuple[str, ...]:
    """Return the name that the control plane's certificate must have; none without mutual TLS."""
    if config.control_plane_auth_policy != "MUTUAL_TLS":
        return ()
    host = config.discovery_address.partition(":")[0]
    return ("istiod.istio-system.svc" if host == "localhost" else host,)


def metadata_discovery(metadata: Mapping[str, Any], role: str, *, delta: bool) -> bool:
    """Return whether Envoy asks the control plane for its peers' metadata."""
    wanted = metadata["METADATA_DISCOVERY"] == "true" or role == "waypoint"
    if wanted and not delta:
        _log.warn("disabling metadata discovery; not supported on SotW XDS")
    return wanted and delta


def load_stats_config(untyped: Members) -> Mapping[str, Any] | None:
    """Return the object of LOAD_STATS_CONFIG_JSON.

    Raises:
        BootstrapError: it is no JSON object.
    """
    text = untyped.get("LOAD_STATS_CONFIG_JSON")
    if not text:
        return None
    try:
        found: Mapping[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except (TypeError, *UNREADABLE) as error:
        raise BootstrapError.of_config(f"LOAD_STATS_CONFIG_JSON: {error}") from None
    return found


def override(environment: Environment, working_dir: Path, host_ip: str) -> str | None:
    """Return the JSON text of ISTIO_BOOTSTRAP_OVERRIDE, or None."""
    name = environment.string("ISTIO_BOOTSTRAP_OVERRIDE")
    return read_override(working_dir / name, host_ip) if name else None


def template(environment: Environment, config: ProxyConfig, working_dir: Path) -> Template | None:
    """Return the custom template: ISTIO_BOOTSTRAP, else ProxyConfig's; None with a `customConfigFile`.

    Raises:
        BootstrapError: it cannot be read.
    """
    name = environment.string("ISTIO_BOOTSTRAP") or config.document.get("proxyBootstrapTemplatePath", "")
    if not name or config.custom_config_file:
        return None
    if posixpath.normpath(name).removeprefix("/") == _STANDARD:
        _log.info(f"{name} names the standard template, which is built in")
        return None
    try:
        return Template(name, (working_dir / name).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BootstrapError.of_config(f"{name}: {error}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BootstrapError.of_config(f"open {name}: {reason}") from None


def _labels(
    environment: Environment, of_file: Mapping[str, str] | None, platform: Platform
) -> tuple[dict[str, str], dict[str, str]]:
    """Return (labels, static labels).

    Without a labels file the two are one map, so the locality's second spelling is in both.
    """
    static = static_labels(environment) | ({} if platform.kubernetes else dict(platform.labels))
    found = static | {name: value for name, value in (of_file or {}).items() if name != "pod-template-hash"}
    if label := locality_label(found):
        found[_LOCALITY] = label
        if of_file is None:
            static[_LOCALITY] = label
    return found, static
