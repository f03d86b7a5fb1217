"""`node.cluster` and `node.locality`.

Source: the reference's bootstrap, section "node".
"""

from collections.abc import Mapping
from typing import Any, Final

CANONICAL_NAME_LABELS: Final = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_CLUSTER_LABELS: Final = ("app", "app.kubernetes.io/name", "service.istio.io/canonical-name")
_PROXY: Final = "istio-proxy"

Locality = dict[str, str]
"""`region`, `zone`, `sub_zone`, each only when not empty."""


def cluster_name(
    proxy_config: Mapping[str, Any],  # Any: canonical JSON
    labels: Mapping[str, str],
    workload_name: str,
    namespace: str,
) -> str:
    """Return the name under which Envoy reports itself (its service cluster)."""
    name = proxy_config.get("serviceCluster", "")
    way = proxy_config.get("tracingServiceName", "APP_LABEL_AND_NAMESPACE")
    if way in ("CANONICAL_NAME_ONLY", "CANONICAL_NAME_AND_NAMESPACE"):
        name = _first(CANONICAL_NAME_LABELS, labels) or workload_name or _PROXY
        if way == "CANONICAL_NAME_AND_NAMESPACE" and namespace:
            return f"{name}.{namespace}"
    if name not in ("", _PROXY):
        return str(name)
    found = _first(_CLUSTER_LABELS, labels) or workload_name or (_PROXY if namespace else "")
    return f"{found}.{namespace}" if found else _PROXY


def locality_label(labels: Mapping[str, str]) -> str:
    """Return the pod's locality with `/` between its parts, or an empty text."""
    text = labels.get("topology.istio.io/locality") or labels.get("istio-locality", "")
    return text if "/" in text else text.replace(".", "/")


def locality(label: str, of_platform: Mapping[str, str]) -> Locality:
    """Return the parts of a label as `locality_label` gives it; without one, the platform's."""
    if not label:
        return {name: value for name, value in of_platform.items() if value}
    parts = zip(("region", "zone", "sub_zone"), label.split("/"), strict=False)
    return {name: value for name, value in parts if value}


def _first(names: tuple[str, ...], labels: Mapping[str, str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
