"""Finds out about the machine what the rules depend on."""

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pilot_agent.capture.errors import ConfigurationError
from pilot_agent.capture.netlink import Netlink
from pilot_agent.capture.options import CaptureSettings, Machine

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

RESOLV_CONF = "/etc/resolv.conf"
_FALLBACK_ID = "1337"
_LOCAL_V4: Final = ("127.", "169.254.", "224.0.0.")
_MAPPED: Final = "::ffff:"


def read_machine(settings: CaptureSettings, *, envoy_user: str) -> Machine:
    """Return what is there; the DNS servers only where they count.

    Raises:
        ConfigurationError: no usable address, or resolv.conf cannot be read.
    """
    address = decisive_address(_local_addresses(), dual_stack=settings.dual_stack)
    machine = read_proxy_and_dns(settings, envoy_user=envoy_user)
    return machine._replace(local_address=address, has_ipv6=":" in address)


def read_proxy_and_dns(settings: CaptureSettings, *, envoy_user: str) -> Machine:
    """Return what is there but for the local address.

    Raises:
        ConfigurationError: resolv.conf cannot be read.
    """
    user_id = settings.proxy_uid or _id_of(envoy_user)
    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()
    if settings.redirect_dns and not settings.capture_all_dns:
        v4, v6 = dns_servers(_resolv_conf())
    return Machine(envoy_user_id=user_id, dns_servers_v4=v4, dns_servers_v6=v6)


def decisive_address(addresses: Iterable[str], *, dual_stack: bool) -> str:
    """Return the first address that is neither the loopback's nor link-local.

    With `dual_stack` the search goes on until one of IPv6 is found.

    Raises:
        ConfigurationError: there is none.
    """
    last = ""
    for text in addresses:
        address = text.removeprefix(_MAPPED) if "." in text else text
        if _is_local(address):
            continue
        last = address
        if not dual_stack or ":" in address:
            break
    if not last:
        raise ConfigurationError("no valid local IP address found")
    return last


def dns_servers(resolv_conf: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the servers of IPv4 and of IPv6; what is no address is skipped.

    An address with a zone is skipped too: no rule can hold it.
    """
    words = (line.split() for line in resolv_conf.splitlines())
    named = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    parsed = [address for address in map(_parsed, named) if address is not None]
    v4, v6 = (tuple(str(one) for one in parsed if one.version == version) for version in (4, 6))
    return v4, v6


def _parsed(text: str) -> "IPv4Address | IPv6Address | None":
    from ipaddress import IPv6Address, ip_address  # noqa: PLC0415  # DNS capture alone

    try:
        address = ip_address(text) if "%" not in text else None
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _is_local(address: str) -> bool:
    """Return whether it is the loopback's or link-local; `ipaddress` would cost more than all of this."""
    if ":" not in address:
        return address.startswith(_LOCAL_V4)
    packed = socket.inet_pton(socket.AF_INET6, address)
    link_local = packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    local_multicast = packed[0] == 0xFF and packed[1] & 0x0F == 2
    return link_local or local_multicast or packed == b"\0" * 15 + b"\1"


def _local_addresses() -> list[str]:
    try:
        with Netlink() as netlink:
            return netlink.addresses()
    except OSError as error:
        raise ConfigurationError(f"cannot list the local addresses: {error}") from error


def _id_of(user: str) -> str:
    from pwd import getpwnam  # noqa: PLC0415  # mostly the uid is given

    try:
        return str(getpwnam(user).pw_uid)
    except KeyError:
        return _FALLBACK_ID


def _resolv_conf() -> str:
    try:
        with open(RESOLV_CONF, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # pathlib costs time
            return file.read()
    except OSError as error:
        raise ConfigurationError(
            f"failed to load {RESOLV_CONF}: {error.strerror} (needed by --redirect-dns)"
        ) from error
