"""`layered_runtime`: Envoy's feature flags, and what `runtimeValues` makes of them."""

from collections.abc import Mapping
from typing import Any, Final

_BUILT_IN: Final[Mapping[str, str | bool]] = {
    "re2.max_program_size.error_level": "32768",
    "envoy.deprecated_features:envoy.config.listener.v3.Listener"
    ".hidden_envoy_deprecated_use_original_dst": True,
    "envoy.reloadable_features.http_reject_path_with_fragment": False,
    "envoy.reloadable_features.fixed_heap_use_allocated": True,
    "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update": False,
}
_STRIP_FRAGMENT: Final = "envoy.reloadable_features.http_strip_fragment_from_path_unsafe_if_disabled"
_NO_TLS_13: Final = "envoy.reloadable_features.google_grpc_disable_tls_13"


def runtime_flags(
    values: Mapping[str, str], *, compliance_policy: str, strip_fragment: bool
) -> dict[str, str | bool]:
    """Return the static layer: an empty value in `values` removes a key, true and false become booleans."""
    flags = dict(_BUILT_IN)
    if compliance_policy == "fips-140-2":
        flags[_NO_TLS_13] = True
    if not strip_fragment:
        flags[_STRIP_FRAGMENT] = "false"
    for name, text in values.items():
        if text:
            flags[name] = text == "true" if text in ("true", "false") else text
        else:
            flags.pop(name, None)
    return flags


def layered_runtime(flags: Mapping[str, str | bool]) -> dict[str, Any]:  # Any: JSON
    """Return the two layers; the second lets the admin port change flags."""
    return {
        "layers": [
            {"name": "global config", "static_layer": dict(flags)},
            {"name": "admin", "admin_layer": {}},
        ]
    }
