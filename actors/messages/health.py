"""HealthActor's verdict on the application, for istiod. Mirrors: the `healthChecker` callback."""

import msgspec


class WorkloadHealthy(msgspec.Struct, frozen=True, kw_only=True):
    """Health → UpstreamXds: the application passed its success threshold."""


class WorkloadUnhealthy(msgspec.Struct, frozen=True, kw_only=True):
    """Health → UpstreamXds: the application passed its failure threshold."""

    message: str  # the probe's error text, sent to istiod as error_detail


class NameTableReceived(msgspec.Struct, frozen=True, kw_only=True):
    """Dns → Health: istiod's first name table (NDS) is here and names are answered from it.

    With DNS capture on, readiness waits for it.
    """
