"""Reads `ISTIO_PROMETHEUS_ANNOTATIONS`: where the application's metrics are.

Source: the reference's status server. Whatever is wrong ends the agent at its start.
"""

import re
from typing import Any, Final

import msgspec

from pilot_agent.unreadable import UNREADABLE

VARIABLE: Final = "ISTIO_PROMETHEUS_ANNOTATIONS"
_RESERVED: Final = {
    15000: "Envoy's admin interface",
    15001: "outbound traffic",
    15004: "the agent's debug interface",
    15006: "inbound traffic",
    15008: "the HBONE tunnel",
    15020: "merged metrics of the agent",
    15021: "health checks",
    15053: "the DNS proxy",
    15090: "Envoy's metrics",
}
_DECIMAL: Final = re.compile(r"[+-]?[0-9]+")


class ScrapeTargetError(ValueError):
    """The variable cannot be used; the text is the reference's."""


class ScrapeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the application, at localhost."""

    port: int
    path: str


class _Target(msgspec.Struct):
    port: str = ""
    path: str = ""


class _Annotations(msgspec.Struct):
    scrape: str = ""
    path: str = ""
    port: str = ""
    targets: list[_Target] | None = None


def parse_targets(text: str, status_port: int) -> tuple[ScrapeTarget, ...]:
    """Return the pages to scrape, in order; none for an empty text or with scraping switched off.

    Raises:
        ScrapeTargetError: no such JSON, or a port that cannot be scraped.
    """
    if not text:
        return ()
    try:
        annotations = msgspec.convert(_lowered(msgspec.json.decode(text)), _Annotations)
    except UNREADABLE as error:  # of either step
        raise ScrapeTargetError(f"failed to unmarshal {VARIABLE}: {error}: {text}") from error
    if annotations.scrape == "false":
        return ()
    if annotations.targets:
        return tuple(
            ScrapeTarget(port=_port(each.port, status_port), path=each.path or "/metrics")
            for each in annotations.targets
        )
    port = _port(annotations.port or "80", status_port)
    return (ScrapeTarget(port=port, path=annotations.path or "/metrics"),)


def _lowered(value: Any) -> Any:  # Any: JSON
    """Return a document with keys in lower case and without nulls, since Go's decoder knows neither."""
    if isinstance(value, dict):
        return {str(key).lower(): _lowered(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_lowered(member) for member in value]
    return value


def _port(text: str, status_port: int) -> int:
    if not _DECIMAL.fullmatch(text) or not 0 < int(text[:20]) < 1 << 16:
        raise ScrapeTargetError(f'invalid target port "{text}"')
    port = int(text)
    if port == status_port:
        raise ScrapeTargetError(
            "application port is the same as agent port, which may lead to a recursive loop. Ensure pod does "
            f"not have prometheus.io/port={port} label, or that injection is not happening multiple times"
        )
    if port in _RESERVED:
        raise ScrapeTargetError(
            f"target port {port} is reserved for Istio ({_RESERVED[port]}) and cannot be scraped"
        )
    return port
