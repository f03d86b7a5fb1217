"""HealthActor's verdict on the application, for istiod. Mirrors: the `healthChecker` callback."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadHealthy:
    """Health → UpstreamXds: the application passed its success threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadUnhealthy:
    """Health → UpstreamXds: the application passed its failure threshold."""

    message: str  # the probe's error text, sent to istiod as error_detail


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTableReceived:
    """UpstreamXds → Health: istiod's first name table (NDS) is here.

    With DNS capture on, readiness waits for it.
    """
