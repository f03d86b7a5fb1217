"""The application's probe as ProxyConfig.readinessProbe gives it, with the reference's defaults."""

from collections.abc import Mapping
from typing import Any, Self

import msgspec

Json = Mapping[str, Any]  # Any: members of a JSON object


class HttpGet(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "/"
    port: int = 0
    host: str = ""  # empty: the default host
    scheme: str = "http"
    headers: tuple[tuple[str, str], ...] = ()


class TcpSocket(msgspec.Struct, frozen=True, kw_only=True):
    port: int = 0
    host: str = ""


class Exec(msgspec.Struct, frozen=True, kw_only=True):
    command: tuple[str, ...] = ()


class Grpc(msgspec.Struct, frozen=True, kw_only=True):
    port: int = 0
    service: str = ""


Method = HttpGet | TcpSocket | Exec | Grpc


class ReadinessProbe(msgspec.Struct, frozen=True, kw_only=True):
    """When to probe, how, and how many results in a row make a verdict."""

    initial_delay_s: float = 0.0
    timeout_s: float = 1.0
    period_s: float = 10.0
    success_threshold: int = 1
    failure_threshold: int = 1
    method: Method | None = None  # None: the configuration names none, and nothing can be probed

    @classmethod
    def parse(cls, document: Json) -> Self:
        """Read the message's canonical JSON; 0 and absent mean the default, and so do negative numbers."""
        return cls(
            initial_delay_s=max(document.get("initialDelaySeconds", 0), 0),
            timeout_s=_positive(document, "timeoutSeconds", 1),
            period_s=_positive(document, "periodSeconds", 10),
            success_threshold=_positive(document, "successThreshold", 1),
            failure_threshold=_positive(document, "failureThreshold", 1),
            method=_method(document),
        )


def _positive(document: Json, name: str, default: int) -> int:
    value = int(document.get(name, 0))
    return value if value > 0 else default


def _method(document: Json) -> Method | None:
    if (http := document.get("httpGet")) is not None:
        return HttpGet(
            path=http.get("path") or "/",
            port=http.get("port", 0),
            host=http.get("host", ""),
            scheme=(http.get("scheme") or "HTTP").lower(),
            headers=tuple(
                (header.get("name", ""), header.get("value", "")) for header in http.get("httpHeaders", ())
            ),
        )
    if (tcp := document.get("tcpSocket")) is not None:
        return TcpSocket(port=tcp.get("port", 0), host=tcp.get("host", ""))
    if (execute := document.get("exec")) is not None:
        return Exec(command=tuple(execute.get("command", ())))
    if (call := document.get("grpc")) is not None:
        return Grpc(port=call.get("port", 0), service=call.get("service", ""))
    return None
