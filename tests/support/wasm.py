"""Modules, extension configs and a cache to try Wasm conversion with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm_pb2
from envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm_pb2
from envoy.extensions.wasm.v3 import wasm_pb2
from google.protobuf import any_pb2, json_format
from udpa.type.v1 import typed_struct_pb2

from pilot_agent.http import ConnectError, Resolved, resolved
from pilot_agent.wasm.cache import Cache
from pilot_agent.wasm.guard import Guard
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.tally import Tally
from pilot_agent.wasm.web import Web
from pilot_agent.xds.type_urls import ECDS

EMPTY_MODULE = b"\0asm\1\0\0\0"
TYPES = "type.googleapis.com/"


def module(text: str = "") -> bytes:
    """Return the smallest module, made unlike others by a custom section that holds `text`."""
    if not text:
        return EMPTY_MODULE
    content = b"\x01n" + text.encode()
    size, out = len(content), bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return EMPTY_MODULE + b"\0" + bytes((*out, size)) + content


def loopback(*names: str) -> Any:  # Any: a Resolve
    """Return a look-up for which these names are this machine; others are asked of the system."""

    def resolve(host: str, port: int) -> list[Resolved]:
        if host in names:
            return resolved("127.0.0.1", port)
        if host.endswith(".invalid"):
            raise ConnectError(f"dial tcp: lookup {host}: no such host")
        return resolved(host, port)

    return resolve


@dataclass
class CacheRig:
    """A cache in a directory; waits are noted instead of slept, and the clock is the test's."""

    directory: Path
    options: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ("registry.test",)
    now_s: float = 1_800_000_000.0
    slept_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tally = Tally()
        self.settings = WasmOptions(directory=str(self.directory), **self.options)
        guard = Guard(self.settings.blocked_cidrs, loopback(*self.names))
        self.web = Web(guard, self.settings.roots_path)
        self.cache = Cache(
            self.settings, self.web, self.tally, now_s=lambda: self.now_s, sleep=self.slept_s.append
        )

    def counted(self, name: str) -> dict[str, float]:
        """Return label value → sum of a counter with one label."""
        found: dict[str, float] = {}
        for count in self.tally.counts:
            if count.name == name:
                label = next(iter(count.labels.values()), "")
                found[label] = found.get(label, 0.0) + count.value
        return found

    @property
    def lookups(self) -> tuple[float, float]:
        """Return hits and misses."""
        counted = self.counted("wasm_cache_lookup_count")
        return counted.get("true", 0.0), counted.get("false", 0.0)

    @property
    def fetches(self) -> dict[str, float]:
        return self.counted("wasm_remote_fetch_count")

    def left_over(self) -> list[Path]:
        """Return what a fetch should have cleaned up."""
        return sorted(self.directory.glob(".*"))


def plugin(
    url: str | None = "http://registry.test/x.wasm",
    *,
    sha256: str = "",
    timeout_s: float | None = 30.0,
    environment: dict[str, str] | None = None,
    host_env: tuple[str, ...] = (),
    local: str = "",
    no_code: bool = False,
    **more: Any,
) -> Any:
    """Return a PluginConfig as istiod makes it; `url` None leaves http_uri out."""
    code = base_pb2.AsyncDataSource()
    if local:
        code.local.filename = local
    elif not no_code:
        code.remote.sha256 = sha256
        if url is not None:
            code.remote.http_uri.uri = url
            code.remote.http_uri.cluster = "_"
            if timeout_s is not None:
                code.remote.http_uri.timeout.FromNanoseconds(round(timeout_s * 1e9))
    variables = None
    if environment is not None or host_env:
        variables = wasm_pb2.EnvironmentVariables(key_values=environment or {}, host_env_keys=host_env)
    vm_config = wasm_pb2.VmConfig(runtime="envoy.wasm.runtime.v8", code=code, environment_variables=variables)
    return wasm_pb2.PluginConfig(name="the plugin", root_id="root", vm_config=vm_config, **more)


def http_filter(plugin_config: Any) -> Any:
    return http_wasm_pb2.Wasm(config=plugin_config)


def network_filter(plugin_config: Any) -> Any:
    return network_wasm_pb2.Wasm(config=plugin_config)


def as_struct(message: Any) -> Any:
    """Return the message as a TypedStruct."""
    struct = typed_struct_pb2.TypedStruct(type_url=TYPES + message.DESCRIPTOR.full_name)
    json_format.ParseDict(json_format.MessageToDict(message), struct.value)
    return struct


def extension(name: str, message: Any) -> bytes:
    """Return the encoded Any of an extension config with this content."""
    config = extension_pb2.TypedExtensionConfig(name=name)
    if message is not None:
        config.typed_config.Pack(message)
    return bytes(any_pb2.Any(type_url=ECDS, value=config.SerializeToString()).SerializeToString())


def opened(resource: bytes) -> Any:
    """Return the TypedExtensionConfig in an encoded Any."""
    packed = any_pb2.Any.FromString(resource)
    assert packed.type_url == ECDS
    return extension_pb2.TypedExtensionConfig.FromString(packed.value)
