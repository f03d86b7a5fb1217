"""Which IP family Envoy's own sockets use, by the addresses of the node.

Source: the reference's bootstrap, table "Addresses".
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

import msgspec


class Families(msgspec.Struct, frozen=True, kw_only=True):
    """The texts that listeners, admin port and DNS clusters are made of."""

    localhost: str
    wildcard: str
    dns_lookup_family: str
    second_localhost: str = ""  # dual stack only
    second_wildcard: str = ""


_V4: Final = Families(localhost="127.0.0.1", wildcard="0.0.0.0", dns_lookup_family="V4_ONLY")
_V6: Final = Families(localhost="::1", wildcard="::", dns_lookup_family="V6_ONLY")


def families(addresses: Sequence[str], *, dual_stack: bool) -> Families:
    """Return the row of the table; texts that are no address count for neither family."""
    versions = [version for version in map(_version, addresses) if version]
    if 4 not in versions and versions:
        return _V6
    if 6 not in versions or not dual_stack:
        return _V4
    first, second = (_V4, _V6) if versions[0] == 4 else (_V6, _V4)
    return Families(
        localhost=first.localhost,
        wildcard=first.wildcard,
        dns_lookup_family="ALL",
        second_localhost=second.localhost,
        second_wildcard=second.wildcard,
    )


def has_ipv4(addresses: Sequence[str]) -> bool:
    """Return whether any of the node's addresses is an IPv4 one."""
    return any(_version(address) == 4 for address in addresses)


def _version(text: str) -> int:
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return 0
