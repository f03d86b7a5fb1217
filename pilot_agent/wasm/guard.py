"""Which addresses a fetch may reach: the agent must not be a way into what the pod's network hides.

Names are looked up once, the answer is checked, and the connection goes to the very address that was
checked: a name that changes its meaning in between gains nothing. Redirects and token endpoints go
through the same look-up.

Source: the reference's Wasm fetch, outbound restrictions. Beyond it: IPv4 addresses that stand inside
IPv6 ones (NAT64, 6to4) are judged as what they lead to.
"""

import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from pilot_agent.http import ConnectError, Deadline, HttpError, HttpTimeoutError, Resolve, Resolved, resolved

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ALWAYS_BLOCKED: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local, where clouds have their metadata
        "fe80::/10",
        "224.0.0.0/24",  # link-local multicast
        "ff02::/16",
        "100.100.100.200/32",  # Alibaba's metadata
        "fd00:ec2::/32",  # Amazon's metadata over IPv6
    )
)
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_REALM: Final = re.compile(r'\brealm\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))', re.IGNORECASE)
_NAMES_REFUSED_AS_REALM: Final = ("metadata.google.internal", "localhost")


class BlockedAddressError(ConnectError):
    """The name leads to an address that fetches must not reach."""


class UnsafeRealmError(HttpError):
    """A registry names a place to ask for a token that nobody outside should be able to name."""


class Guard:
    """Judges addresses; `cidrs` are blocked in addition to those that always are."""

    def __init__(self, cidrs: Iterable[str] = (), resolve: Resolve = resolved) -> None:
        self._blocked: tuple[_Network, ...] = (*_ALWAYS_BLOCKED, *map(ipaddress.ip_network, cidrs))
        self._resolve = resolve

    def is_blocked(self, text: str) -> bool:
        """Return whether the address must not be reached; what is no address is blocked, too."""
        try:
            address = _meant(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return True
        return any(address.version == one.version and address in one for one in self._blocked)

    def resolve_within(self, deadline: Deadline) -> Resolve:
        """Return a look-up that ends with the deadline and answers nothing but what is allowed."""

        def look_up(host: str, port: int) -> Sequence[Resolved]:
            found = _bounded(self._resolve, host, port, deadline)
            allowed = [one for one in found if not self.is_blocked(one[1][0])]
            if not allowed:
                addresses = ", ".join(one[1][0] for one in found)
                raise BlockedAddressError(f"dial tcp: {host} is {addresses}: this address is blocked")
            return allowed

        return look_up


def check_realms(challenges: Iterable[str]) -> None:
    """Look at each realm of a 401's `WWW-Authenticate` headers.

    Raises:
        UnsafeRealmError: one of them is no place to send credentials to.
    """
    for challenge in challenges:
        for match in _REALM.finditer(challenge):
            realm = match[1] if match[1] is not None else match[2]
            problem = _realm_problem(realm)
            # A Basic challenge's realm is a title and no URL: nobody goes there.
            if problem and not (problem == _NO_URL and _scheme_before(challenge, match.start()) == "basic"):
                raise UnsafeRealmError(f"rejected unsafe bearer realm {realm!r}: {problem}")


def check_realm(realm: str) -> None:
    """Look at a realm as it was read, with escapes undone: what it is asked for a token by.

    Raises:
        UnsafeRealmError: it is no place to send credentials to.
    """
    problem = _realm_problem(realm)
    if problem:
        raise UnsafeRealmError(f"rejected unsafe bearer realm {realm!r}: {problem}")


def is_local(authority: str) -> bool:
    """Return whether `host` or `host:port` names this machine or a private network by its spelling.

    Source: the reference's registry library, which may speak plain HTTP with such.
    """
    host = (urlsplit(f"//{authority}").hostname or "").lower()
    if host == "localhost" or host.endswith((".localhost", ".local")):
        return True
    address = _literal(host)
    return address is not None and (address.is_private or address.is_loopback)


_NO_URL: Final = "not an http or https URL"


def _scheme_before(challenge: str, at: int) -> str:
    """Return the scheme of the challenge that the parameter at this offset belongs to."""
    schemes = re.findall(r"(?:^|,)\s*([A-Za-z][\w-]*)\s+(?=[\w-]+\s*=)", challenge[:at] + "realm=")
    return str(schemes[-1]).lower() if schemes else ""


def _realm_problem(realm: str) -> str:
    try:
        parts = urlsplit(realm)
        host = (parts.hostname or "").rstrip(".").lower()
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https"):
        return _NO_URL
    if not host:
        return "without a host"
    if host in _NAMES_REFUSED_AS_REALM or host.endswith(".localhost"):
        return "a name of this machine or of its cloud"
    address = _literal(host)
    if address is None:
        return ""
    is_unsafe = address.is_private or address.is_loopback or address.is_link_local or address.is_unspecified
    return "a private, loopback or link-local address" if is_unsafe else ""


def _literal(host: str) -> _Address | None:
    """Return the address that `host` spells, also as `0x7f.1` or `2130706433`; None for a name."""
    try:
        return _meant(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _meant(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if any(address in each for each in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _bounded(resolve: Resolve, host: str, port: int, deadline: Deadline) -> Sequence[Resolved]:
    """Look a name up in a thread: the system's own time limit may be half a minute."""
    answer: queue.SimpleQueue[Sequence[Resolved] | HttpError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(resolve(host, port))
        except HttpError as error:
            answer.put(error)

    threading.Thread(target=ask, name=f"lookup-{host}"[:15], daemon=True).start()
    try:
        found = answer.get(timeout=deadline.remaining_s())
    except queue.Empty:
        raise HttpTimeoutError(f"dial tcp: lookup {host}: i/o timeout") from None
    if isinstance(found, HttpError):
        raise found
    return found
