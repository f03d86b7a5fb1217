"""One layer laid over another: present members replace, with the two exceptions of the reference."""

from collections.abc import Mapping
from typing import Any, Final

from pilot_agent.proxyconfig.canonical import Document, canonical, without_zeros
from pilot_agent.proxyconfig.errors import ConfigError
from pilot_agent.proxyconfig.schema import ONE_OFS
from pilot_agent.proxyconfig.text import parsed

DEFAULTS: Final[Mapping[str, Any]] = {
    "configPath": "./etc/istio/proxy",
    "binaryPath": "/usr/local/bin/envoy",
    "serviceCluster": "istio-proxy",
    "drainDuration": "45s",
    "terminationDrainDuration": "5s",
    "discoveryAddress": "istiod.istio-system.svc:15012",
    "controlPlaneAuthPolicy": "MUTUAL_TLS",
    "proxyAdminPort": 15000,
    "statusPort": 15020,
    "statNameLength": 189,
}
"""The ProxyConfig that is left when nobody says anything."""

_KEPT_HEADERS: Final = ("forwardedClientCert", "requestId", "attemptCount", "server", "envoyDebugHeaders")


def with_layer(base: Mapping[str, Any], text: str) -> Document:
    """Return `base` with the ProxyConfig of a YAML or JSON text over it.

    Raises:
        ConfigError: the text does not parse, or a value does not fit its field.
    """
    try:
        return merged(base, canonical("ProxyConfig", parsed(text), keep_zero=True))
    except ConfigError as error:
        raise ConfigError(f"could not parse proxy config: {error}") from None


def merged(base: Mapping[str, Any], layer: Mapping[str, Any]) -> Document:
    """Return `base` with each member of `layer` in its place.

    `proxyMetadata` is merged key by key; five members of `proxyHeaders` survive where the layer has
    them not; a member of a one-of puts out the others.
    """
    result = dict(base)
    for group in ONE_OFS["ProxyConfig"]:
        if any(name in layer for name in group):
            result = {name: value for name, value in result.items() if name not in group}
    result |= layer
    if "proxyMetadata" in layer:
        result["proxyMetadata"] = base.get("proxyMetadata", {}) | layer["proxyMetadata"]
    if "proxyHeaders" in layer:
        earlier = base.get("proxyHeaders", {})
        result["proxyHeaders"] = {name: earlier[name] for name in _KEPT_HEADERS if name in earlier} | layer[
            "proxyHeaders"
        ]
    return without_zeros("ProxyConfig", result)
