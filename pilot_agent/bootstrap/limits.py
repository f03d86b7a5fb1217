"""`overload_manager`: how many downstream connections Envoy takes."""

from collections.abc import Mapping
from typing import Any, Final

from pilot_agent.proxyconfig.hostport import decimal

_MAX_CONNECTIONS: Final = 2**31 - 1
_OLDER_WAYS: Final = (
    ("proxyMetadata", "ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS"),
    ("runtimeValues", "overload.global_downstream_max_connections"),
)


def overload_manager(proxy_config: Mapping[str, Any]) -> dict[str, Any]:  # Any: canonical JSON, JSON
    """Return the section with the limit of downstream connections."""
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
            ".DownstreamConnectionsConfig",
            "max_active_downstream_connections": max_downstream_connections(proxy_config),
        },
    }
    return {"resource_monitors": [monitor]}


def max_downstream_connections(proxy_config: Mapping[str, Any]) -> int:
    """Return the limit: of connectionSettings, else of the two older ways, else the largest number."""
    limit = proxy_config.get("connectionSettings", {}).get("globalDownstreamConnectionLimit", 0)
    if limit > 0:
        return int(limit)
    for texts, key in _OLDER_WAYS:
        try:
            return decimal(proxy_config.get(texts, {}).get(key, ""))
        except ValueError:
            continue
    return _MAX_CONNECTIONS
