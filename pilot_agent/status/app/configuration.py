"""Reads `ISTIO_KUBE_APP_PROBERS`: probe path → how the application is asked.

Source: the reference's status server. Whatever is wrong ends the agent at its start, so that a broken
injection is seen at once and not at the first probe.
"""

import re
from typing import Any, Final, Literal

import msgspec

from pilot_agent.unreadable import UNREADABLE

VARIABLE: Final = "ISTIO_KUBE_APP_PROBERS"
_PATH: Final = r"^/(app-health|app-lifecycle)/[^/]+/(livez|readyz|startupz|prestopz|poststartz)$"
_TYPES: Final = ("httpget", "tcpsocket", "grpc")
_INT32_END: Final = 1 << 31


class AppProbeError(ValueError):
    """The variable cannot be used; the text is the reference's."""


class AppProber(msgspec.Struct, frozen=True, kw_only=True):
    """One taken-over probe."""

    kind: Literal["http", "tcp", "grpc"]
    port: int
    path: str = "/"  # HTTP: as configured, with a leading slash
    tls: bool = False  # HTTP
    service: str = ""  # gRPC
    timeout_s: float = 0.0  # 0.0: HTTP and TCP without a limit of the user's, gRPC fails at once


def parse_app_probers(text: str) -> dict[str, AppProber]:
    """Return the probers by path; none for an empty text.

    Keys match without regard to case, fields that nobody here needs are passed over, as Go does it.

    Raises:
        AppProbeError: no JSON, a path or prober of another form.
    """
    if not text:
        return {}
    try:
        document = msgspec.json.decode(text)
        if document is None:
            return {}
        probers = {
            str(path): _lowered(prober, "KubeAppProbers") for path, prober in _members(document).items()
        }
        return {path: _prober(path, prober) for path, prober in probers.items()}
    except (_DecodeError, *UNREADABLE) as error:
        raise AppProbeError(f"failed to decode app prober err = {error}, json string = {text}") from error


class _DecodeError(Exception):
    """A value of another type than the field's."""


def _prober(path: str, prober: dict[str, Any]) -> AppProber:  # Any: members of a JSON object
    if not re.fullmatch(_PATH.strip("^$"), path):
        raise AppProbeError(f"invalid path, must be in form of regex pattern {_PATH}")
    kinds = [kind for kind in _TYPES if prober.get(kind) is not None]
    if len(kinds) != 1:
        raise AppProbeError("invalid prober type, must be one of type httpGet, tcpSocket or gRPC")
    settings = _lowered(prober[kinds[0]], kinds[0])
    timeout_s = float(_int32(prober, "timeoutseconds"))
    if kinds[0] == "grpc":
        return AppProber(
            kind="grpc",
            port=_int32(settings, "port"),
            service=_string(settings, "service"),
            timeout_s=timeout_s,
        )
    port = _port(path, settings)
    if kinds[0] == "tcpsocket":
        return AppProber(kind="tcp", port=port, timeout_s=timeout_s)
    target = _string(settings, "path")
    return AppProber(
        kind="http",
        port=port,
        path=target if target.startswith("/") else f"/{target}",
        tls=_string(settings, "scheme") == "HTTPS",
        timeout_s=timeout_s,
    )


def _members(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _DecodeError(f"json: cannot unmarshal {_kind(value)} into Go value of type KubeAppProbers")
    return value


def _lowered(value: Any, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _DecodeError(f"json: cannot unmarshal {_kind(value)} into Go struct field {field}")
    return {str(key).lower(): member for key, member in value.items()}


def _port(path: str, settings: dict[str, Any]) -> int:
    """Return the port, which Kubernetes lets be a number or the name of a container's port."""
    if isinstance(settings.get("port"), str):
        raise AppProbeError(f"invalid prober config for {path}, the port must be int type")
    return _int32(settings, "port")


def _int32(settings: dict[str, Any], field: str) -> int:
    value = settings.get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT32_END <= value < _INT32_END:
        raise _DecodeError(
            f"json: cannot unmarshal {_kind(value)} into Go struct field {field} of type int32"
        )
    return value


def _string(settings: dict[str, Any], field: str) -> str:
    value = settings.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _DecodeError(
            f"json: cannot unmarshal {_kind(value)} into Go struct field {field} of type string"
        )
    return value


def _kind(value: Any) -> str:
    names = {bool: "bool", str: "string", list: "array", dict: "object"}
    return names.get(type(value), f"number {value}")
