"""The addresses of the node: INSTANCE_IP and those of its interfaces.

Source: the reference's command line, step "Addresses".
"""

import ipaddress
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from pilot_agent.log import get_logger
from pilot_agent.proxyconfig.interfaces import Interfaces, read_interfaces

_log = get_logger()

_UNSPECIFIED_LIMIT_S: Final = 120.0
_UNSPECIFIED_PAUSE_S: Final = 0.1


def settled_interfaces(
    read: Callable[[], Interfaces] = read_interfaces,
    *,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Interfaces:
    """Return the interfaces as soon as none shows an unspecified address (0.0.0.0), in 2 minutes at most.

    Where the kernel does not tell them, there are none.
    """
    deadline = now() + _UNSPECIFIED_LIMIT_S
    while True:
        try:
            interfaces = read()
        except OSError as error:
            _log.warn(f"the addresses of the interfaces cannot be read: {error}")
            return {}
        if now() >= deadline or not any(map(_is_unspecified, _all(interfaces))):
            return interfaces
        pause(_UNSPECIFIED_PAUSE_S)


def node_addresses(
    instance_ip: str, interfaces: Interfaces, excluded: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the node's addresses, INSTANCE_IP first when it is one; never empty.

    Loopback and link-local addresses are left out, IPv4 addresses mapped into IPv6 are unwrapped, and
    `excluded` names interfaces that do not count.
    """
    own = _parsed(instance_ip)
    found = [own] if own else []
    for name, addresses in interfaces.items():
        if name in excluded:
            continue
        for text in addresses:
            address = _parsed(text)
            if address is not None and address != own and _counts(address):
                found.append(address)
    return tuple(map(str, found)) or ("127.0.0.1", "::1")


def _all(interfaces: Interfaces) -> Iterable[str]:
    return (address for addresses in interfaces.values() for address in addresses)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _is_unspecified(text: str) -> bool:
    address = _parsed(text)
    return address is not None and address.is_unspecified


def _counts(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not (
        address.is_unspecified or address.is_loopback or address.is_link_local or _is_local_multicast(address)
    )


def _is_local_multicast(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return address in ipaddress.IPv4Network("224.0.0.0/24")
    return address.packed[0] == 0xFF and address.packed[1] & 0x0F == 2
