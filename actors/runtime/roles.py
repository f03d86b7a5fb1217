"""The actors' names, and which of them speaks to which: data, so that the picture can be read here."""

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """One actor; the value is its name in logs, in `ps` and in the status page."""

    CERT = "cert"
    SDS = "sds"
    UPSTREAM_XDS = "upstream-xds"
    DOWNSTREAM_XDS = "downstream-xds"
    HEALTH = "health"
    ENVOY = "envoy"
    DNS = "dns"


CHANNELS: Final[tuple[tuple[Role, Role], ...]] = (
    # from             to
    (Role.SDS, Role.CERT),
    (Role.CERT, Role.SDS),
    (Role.CERT, Role.ENVOY),
    (Role.DOWNSTREAM_XDS, Role.UPSTREAM_XDS),
    (Role.UPSTREAM_XDS, Role.DOWNSTREAM_XDS),
    (Role.HEALTH, Role.UPSTREAM_XDS),
    (Role.HEALTH, Role.ENVOY),
    (Role.HEALTH, Role.CERT),
    (Role.ENVOY, Role.HEALTH),
    (Role.UPSTREAM_XDS, Role.CERT),
    (Role.UPSTREAM_XDS, Role.DNS),
    (Role.UPSTREAM_XDS, Role.HEALTH),
    (Role.DNS, Role.UPSTREAM_XDS),
    (Role.DNS, Role.HEALTH),
    (Role.HEALTH, Role.DNS),
)
"""Every directed pair that has a channel. A pair that is not here cannot speak."""
