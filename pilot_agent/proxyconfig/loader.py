"""The start of every agent: who the node is, and its ProxyConfig from all the layers.

Source: the reference's command line (steps "Addresses" to "ProxyConfig is built").
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pilot_agent.environment import Environment
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig import pod_files
from pilot_agent.proxyconfig.addresses import node_addresses, settled_interfaces
from pilot_agent.proxyconfig.canonical import Document, canonical, without_zeros
from pilot_agent.proxyconfig.errors import ConfigError
from pilot_agent.proxyconfig.flags import ProxyFlags
from pilot_agent.proxyconfig.hostport import decimal
from pilot_agent.proxyconfig.interfaces import Interfaces
from pilot_agent.proxyconfig.layers import DEFAULTS, merged, with_layer
from pilot_agent.proxyconfig.model import Node, ProxyConfig
from pilot_agent.proxyconfig.statsd import resolved
from pilot_agent.proxyconfig.text import as_yaml, parsed, valid_text
from pilot_agent.proxyconfig.validation import DNS_AUTO_ALLOCATE_WARNING, validate, validate_mesh

_log = get_logger()

_PREFIX: Final = "failed to get proxy config: "
_CONFIG_ANNOTATION: Final = "proxy.istio.io/config"
_DISCOVERY_ANNOTATION: Final = "sidecar.istio.io/discoveryAddress"
_STATUS_PORT_ANNOTATION: Final = "status.sidecar.istio.io/port"
_EXCLUDE_ANNOTATION: Final = "traffic.sidecar.istio.io/excludeInterfaces"


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What the start has found out."""

    proxy_config: ProxyConfig
    node: Node
    labels: Mapping[str, str] | None  # of the labels file; None: there is none
    annotations: Mapping[str, str] | None  # of the annotations file; None: there is none
    flags: ProxyFlags


def load(
    environment: Environment,
    flags: ProxyFlags,
    working_dir: Path = Path(),
    *,
    read_interfaces: Callable[[], Interfaces] = settled_interfaces,
    cpu_count: int | None = None,
) -> Loaded:
    """Return node and final ProxyConfig; log the reference's lines on the way.

    Args:
        environment: The agent's variables.
        flags: Those of the command line.
        working_dir: What all relative paths start from.
        read_interfaces: Interface name → addresses.
        cpu_count: CPUs of the machine, counted when None.

    Raises:
        ConfigError: a layer does not parse or the result breaks a rule; the text begins with
            `failed to get proxy config: ` and is the reference's.
    """
    labels = pod_files.read_pod_file(working_dir / pod_files.LABELS, "labels")
    annotations = pod_files.read_pod_file(working_dir / pod_files.ANNOTATIONS, "annotations")
    node = _node(environment, flags, annotations or {}, read_interfaces)
    _log.info("Proxy role", ips=list(node.ip_addresses), type=node.role, id=node.id, domain=node.domain)
    try:
        document = _document(environment, flags, annotations or {}, working_dir, cpu_count)
    except ConfigError as error:
        raise ConfigError(f"{_PREFIX}{error}") from None
    _log.info(f"Effective config: {as_yaml(document)}")
    if flags.template_file and not document.get("customConfigFile"):
        document["proxyBootstrapTemplatePath"] = flags.template_file
    config = ProxyConfig.from_document(document)
    return Loaded(proxy_config=config, node=node, labels=labels, annotations=annotations, flags=flags)


def _node(
    environment: Environment,
    flags: ProxyFlags,
    annotations: Mapping[str, str],
    read_interfaces: Callable[[], Interfaces],
) -> Node:
    excluded = [name.strip() for name in annotations.get(_EXCLUDE_ANNOTATION, "").split(",")]
    name, namespace = (valid_text(environment.string(part)) for part in ("POD_NAME", "POD_NAMESPACE"))
    return Node(
        role=flags.role,
        ip_addresses=node_addresses(environment.string("INSTANCE_IP"), read_interfaces(), excluded),
        id=f"{name}.{namespace}",
        domain=flags.domain or f"{namespace}.svc.cluster.local",
    )


def _document(
    environment: Environment,
    flags: ProxyFlags,
    annotations: Mapping[str, str],
    working_dir: Path,
    cpu_count: int | None,
) -> Document:
    document = _layered(environment, flags, annotations, working_dir)
    _apply_concurrency(document, environment, flags, cpu_count)
    if document.get("serviceCluster") == "":
        document["serviceCluster"] = flags.service_cluster
    _resolve_statsd(document)
    validate(document)
    if "ISTIO_META_DNS_AUTO_ALLOCATE" in document.get("proxyMetadata", {}):
        _log.warn(DNS_AUTO_ALLOCATE_WARNING)
    _apply_annotations(document, annotations)
    return without_zeros("ProxyConfig", document)


def _layered(
    environment: Environment, flags: ProxyFlags, annotations: Mapping[str, str], working_dir: Path
) -> Document:
    document = _with_mesh_file(dict(DEFAULTS), working_dir, flags.mesh_config)
    for source, name, text in (
        ("env", "environment", valid_text(environment.string("PROXY_CONFIG"))),
        ("annotation", "annotation", annotations.get(_CONFIG_ANNOTATION, "")),
    ):
        if text:
            _log.info(f"Apply proxy config from {source} {text}")
            try:
                document = with_layer(document, text)
            except ConfigError as error:
                raise ConfigError(f"failed to unmarshal mesh config from {name} [{text}]: {error}") from None
    return document


def _with_mesh_file(base: Document, working_dir: Path, name: str) -> Document:
    try:
        text = (working_dir / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return base
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"failed to read mesh config file {name}: {error}") from None
    if not text:
        return base
    _log.info(f"Apply mesh config from file {text}")
    try:
        return _with_mesh(base, text)
    except ConfigError as error:
        raise ConfigError(f"failed to unmarshal mesh config from file [{text}]: {error}") from None


def _with_mesh(base: Document, text: str) -> Document:
    try:
        raw: Any = parsed(text)  # Any: JSON
        mesh = canonical("MeshConfig", raw, keep_zero=True)
        layer = canonical("ProxyConfig", _member(raw, "defaultConfig"), keep_zero=True)
    except ConfigError as error:
        raise ConfigError(f"failed to convert to proto. {error}") from None
    document = merged(base, layer)
    validate_mesh(mesh, document)
    return document


def _member(raw: Any, name: str) -> object:
    return raw.get(name) if isinstance(raw, dict) else None


def _apply_concurrency(
    document: Document, environment: Environment, flags: ProxyFlags, cpu_count: int | None
) -> None:
    limit, cpus = environment.integer("ISTIO_CPU_LIMIT", 0), cpu_count or os.cpu_count() or 1
    if "concurrency" not in document and limit:
        _log.info(f"cpu limit detected as {limit}, setting concurrency")
        document["concurrency"] = limit
    if flags.concurrency:
        _log.warn(f"legacy --concurrency={flags.concurrency} flag detected; prefer to use ProxyConfig")
        document["concurrency"] = flags.concurrency
    if not document.get("concurrency") and limit < cpus:
        _log.warn(
            "concurrency is set to 0, which will use a thread per CPU on the host. However, CPU limit is set "
            "lower. This is not recommended and may lead to performance issues. "
            f"CPU count: {cpus}, CPU Limit: {limit}."
        )


def _resolve_statsd(document: Document) -> None:
    if not document.get("statsdUdpAddress"):
        return
    try:
        document["statsdUdpAddress"] = resolved(document["statsdUdpAddress"])
    except ValueError as error:
        _log.warn(f"resolve StatsdUdpAddress failed: {error}")
        document["statsdUdpAddress"] = ""


def _apply_annotations(document: Document, annotations: Mapping[str, str]) -> None:
    if _DISCOVERY_ANNOTATION in annotations:
        document["discoveryAddress"] = annotations[_DISCOVERY_ANNOTATION]
    if (text := annotations.get(_STATUS_PORT_ANNOTATION)) is not None:
        try:
            document["statusPort"] = decimal(text)
        except ValueError as error:
            _log.error(f"Invalid annotation {_STATUS_PORT_ANNOTATION}={text}: {error}")
            document["statusPort"] = 0
