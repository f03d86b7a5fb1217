"""Extension configurations (ECDS): Wasm filters as istiod makes them, and a listener that asks for them."""

from collections.abc import Mapping

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as _rbac  # noqa: F401 - registers its type
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as _wasm  # noqa: F401

from lab.mesh import Address
from lab.resources import shapes
from lab.resources.shapes import Json, resource
from lab.snapshot import ECDS, LDS, Resource, Snapshot

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http."
_WASM, _RBAC = f"{_FILTERS}wasm.v3.Wasm", f"{_FILTERS}rbac.v3.RBAC"


def wasm_plugin(
    name: str,
    url: str,
    *,
    sha256: str = "",
    fail_open: bool = False,
    timeout: str = "30s",
    environment: Mapping[str, str] | None = None,
) -> Resource:
    """Return the filter `name` with a module at `url`; `environment` brings secret, policy and version."""
    vm_config: Json = {
        "runtime": "envoy.wasm.runtime.v8",
        "code": {
            "remote": {
                "http_uri": {"uri": url, "timeout": timeout, "cluster": "_"},
                "sha256": sha256 or "nil",
            }
        },
        "environment_variables": {"key_values": dict(environment or {})},
    }
    policy = "FAIL_OPEN" if fail_open else "FAIL_CLOSED"
    plugin: Json = {"name": name, "root_id": "", "vm_config": vm_config, "failure_policy": policy}
    shape: Json = {"name": name, "typed_config": {"@type": _WASM, "config": plugin}}
    return resource(name, ECDS, extension_pb2.TypedExtensionConfig(), shape)


def broken(name: str) -> Resource:
    """Return a configuration without content, which nobody can take."""
    return resource(name, ECDS, extension_pb2.TypedExtensionConfig(), {"name": name})


def listener(address: Address, *extensions: str) -> Resource:
    """Return a listener that answers 200 to everything that passes these extensions."""
    routes: Json = {
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "direct_response": {"status": 200, "body": {"inline_string": "passed"}},
                    }
                ],
            }
        ]
    }
    filters = [
        {"name": name, "config_discovery": {"config_source": shapes.ADS, "type_urls": [_WASM, _RBAC]}}
        for name in extensions
    ]
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_FILTERS}router.v3.Router"}}
    manager = shapes.http_connection_manager(
        f"extended_{address.port}", route_config=routes, http_filters=[*filters, router]
    )
    shape: Json = {
        "name": f"extended_{shapes.listener_name(address)}",
        "address": shapes.socket_address(address),
        "filter_chains": [{"filters": [manager]}],
    }
    return resource(shape["name"], LDS, listener_pb2.Listener(), shape)


def extended(snapshot: Snapshot, *resources: Resource) -> Snapshot:
    """Return the snapshot with these resources, too."""
    known = [one for by_name in snapshot.by_type.values() for one in by_name.values()]
    return Snapshot.of(*known, *resources)
