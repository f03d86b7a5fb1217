"""One extension configuration: is a Wasm module to be fetched for it, and what does Envoy get instead.

Source: the reference's Wasm conversion. With protobuf's own classes: for the worker alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm_pb2
from envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm_pb2
from envoy.extensions.wasm.v3 import wasm_pb2
from google.protobuf import any_pb2, json_format, struct_pb2, wrappers_pb2  # noqa: F401  # types in Any
from google.protobuf.message import DecodeError
from udpa.type.v1 import typed_struct_pb2

from pilot_agent.log import get_logger
from pilot_agent.wasm.cache import Policy, Wanted
from pilot_agent.wasm.ecds import HTTP_WASM, NETWORK_WASM, TYPED_STRUCT
from pilot_agent.wasm.errors import MissingSourceError, RejectedError, WasmError
from pilot_agent.wasm.last_good import Good
from pilot_agent.wire import bytes_field, text_field
from pilot_agent.xds.type_urls import ECDS

_RBAC: Final = "type.googleapis.com/envoy.extensions.filters.{}.rbac.v3.RBAC"
_META: Final = "ISTIO_META_"
_SECRET: Final = _META + "WASM_IMAGE_PULL_SECRET"
_POLICY: Final = _META + "WASM_IMAGE_PULL_POLICY"
_VERSION: Final = _META + "WASM_PLUGIN_RESOURCE_VERSION"
_POLICIES: Final[dict[str, Policy]] = {"IfNotPresent": "IfNotPresent", "Always": "Always"}
_DEFAULT_TIMEOUT_S: Final = 5.0
_NO_CHECKSUM: Final = "nil"
_UNCAUGHT_BY_PROTOBUF: Final = (AttributeError, KeyError)
"""What its JSON reader raises for an Any whose `@type` is no text, or whose `value` is missing."""
_log = get_logger("wasm")

Message = Any  # generated classes have no types here


class Kind(NamedTuple):
    """An HTTP or a network filter."""

    wasm: Message  # the class
    rbac_url: str
    stat_prefix_field: int  # of RBAC

    def fallback(self, *, is_open: bool) -> bytes:
        """Return the encoded RBAC that allows or denies everything; empty rules are there, and deny."""
        name = "wasm-default-allow" if is_open else "wasm-default-deny"
        return (b"" if is_open else bytes_field(1, b"")) + text_field(self.stat_prefix_field, name)


_KINDS: Final = {
    HTTP_WASM: Kind(http_wasm_pb2.Wasm, _RBAC.format("http"), 6),
    NETWORK_WASM: Kind(network_wasm_pb2.Wasm, _RBAC.format("network"), 3),
}

GetModule = Callable[[Wanted, float], Path]
"""Returns the file of a module within so many seconds; raises WasmError."""

GetLastGood = Callable[[str], Good | None]
"""Returns the last good filter of that name, if its module is still there."""


class Converted(NamedTuple):
    """What became of one resource."""

    resource: bytes | None  # an encoded Any; None: as it was
    result: str  # label of wasm_config_conversion_count
    name: str = ""
    file: str = ""  # of the module, where there is one
    is_stale: bool = False  # the last good filter, since the module of this one cannot be had


def convert(
    resource: bytes | None, get_module: GetModule, get_last_good: GetLastGood = lambda _: None
) -> Converted:
    """Return what Envoy gets for one encoded Any; None is a resource that is not there.

    Where the module cannot be had that is the last good filter of the same name and kind, and one that
    allows or denies all where there is none. (The reference has the latter in any case.)

    Raises:
        RejectedError: it cannot be understood.
    """
    config = _extension_config(resource)
    found = _wasm_filter(config)
    if found is None:
        return Converted(None, "no_remote_load")
    kind, wasm = found
    source = wasm.config.vm_config.code.WhichOneof("specifier")
    if source == "local":
        return Converted(None, "no_remote_load")
    if source is None:
        raise RejectedError(f"Wasm filter {config.name!r} has neither remote nor local code")
    result, file = "success", ""
    try:
        file = _rewrite(wasm.config, config.name, get_module)
        config.typed_config.Pack(wasm, deterministic=True)
    except WasmError as error:
        result = error.result
        last_good = get_last_good(config.name)
        if last_good is not None and _has_kind(last_good, kind):
            _log.error(f"Wasm filter {config.name!r}: {error}; the one before it goes on")
            return Converted(last_good.resource, result, config.name, is_stale=True)
        is_open = _is_fail_open(wasm.config)
        _log.error(
            f"Wasm filter {config.name!r}: {error}; {'all' if is_open else 'nothing'} is let through instead"
        )
        config.typed_config.type_url = kind.rbac_url
        config.typed_config.value = kind.fallback(is_open=is_open)
    packed = any_pb2.Any(
        type_url=ECDS, value=config.SerializeToString(deterministic=True)
    ).SerializeToString()
    last_good = get_last_good(config.name) if file else None
    if last_good is not None and last_good.rejected == packed and _has_kind(last_good, kind):
        _log.error(f"Wasm filter {config.name!r}: Envoy has rejected it before; the one before it goes on")
        return Converted(last_good.resource, result, config.name, is_stale=True)
    return Converted(packed, result, config.name, file)


def _has_kind(good: Good, kind: Kind) -> bool:
    return _KINDS.get(_extension_config(good.resource).typed_config.type_url) is kind


def _extension_config(resource: bytes | None) -> Message:
    if resource is None:
        raise RejectedError("an ECDS resource without content")
    packed = _decoded(any_pb2.Any, resource, "resource")
    if packed.type_url != ECDS:
        raise RejectedError(f"ECDS resource type got={packed.type_url!r} expected={ECDS}")
    config = _decoded(extension_pb2.TypedExtensionConfig, packed.value, "extension config")
    if not config.HasField("typed_config"):
        raise RejectedError(f"extension config {config.name!r} has no typed_config")
    return config


def _wasm_filter(config: Message) -> tuple[Kind, Message] | None:
    """Return the filter if it is one of Wasm, typed or as a TypedStruct."""
    typed = config.typed_config
    if typed.type_url in _KINDS:
        kind = _KINDS[typed.type_url]
        return kind, _decoded(kind.wasm, typed.value, f"Wasm filter {config.name!r}")
    if typed.type_url != TYPED_STRUCT:
        return None
    struct = _decoded(typed_struct_pb2.TypedStruct, typed.value, f"TypedStruct of {config.name!r}")
    kind_of_struct = _KINDS.get(struct.type_url)
    if kind_of_struct is None:
        return None
    try:
        members = json_format.MessageToDict(struct.value)
        return kind_of_struct, json_format.ParseDict(members, kind_of_struct.wasm())
    except (json_format.Error, ValueError, TypeError, *_UNCAUGHT_BY_PROTOBUF) as error:
        raise RejectedError(f"TypedStruct of {config.name!r} is no {struct.type_url}: {error}") from error


def _decoded(kind: Message, data: bytes, what: str) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise RejectedError(f"{what} cannot be decoded as {kind.DESCRIPTOR.full_name}: {error}") from error


def _rewrite(plugin: wasm_pb2.PluginConfig, name: str, get_module: GetModule) -> str:
    """Have the module fetched, name its file instead, and return it.

    Raises:
        WasmError: it cannot be had. What must not reach Envoy is gone even then.
    """
    vm_config = plugin.vm_config
    meta = _taken_meta(vm_config)
    remote = vm_config.code.remote
    if meta.get(_SECRET) == "":
        raise WasmError("missing image pulling secret")
    if not remote.HasField("http_uri"):
        raise MissingSourceError("remote code without http_uri")
    uri = remote.http_uri
    checksum = "" if remote.sha256 == _NO_CHECKSUM else remote.sha256.lower()
    wanted = Wanted(
        url=uri.uri,
        checksum=checksum,
        resource=name,
        version=meta.get(_VERSION, ""),
        policy=_POLICIES.get(meta.get(_POLICY, ""), "UNSPECIFIED_POLICY"),
        secret=meta.get(_SECRET),
    )
    timeout_s = (
        uri.timeout.seconds + uri.timeout.nanos / 1e9 if uri.HasField("timeout") else _DEFAULT_TIMEOUT_S
    )
    file = str(get_module(wanted, timeout_s))
    vm_config.code.local.filename = file
    return file


def _taken_meta(vm_config: Message) -> dict[str, str]:
    """Take out what the control plane says to the agent alone, pull secrets among it, and return it."""
    if not vm_config.HasField("environment_variables"):
        return {}
    variables = vm_config.environment_variables
    taken = {key: value for key, value in variables.key_values.items() if key.startswith(_META)}
    for key in taken:
        del variables.key_values[key]
    if not variables.key_values and not variables.host_env_keys:
        vm_config.ClearField("environment_variables")
    return taken


def _is_fail_open(plugin: Message) -> bool:
    if plugin.failure_policy != wasm_pb2.UNSPECIFIED:
        return bool(plugin.failure_policy == wasm_pb2.FAIL_OPEN)
    return bool(plugin.fail_open)
