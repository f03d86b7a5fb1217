"""Address prefixes as Go's netip reads and prints them: host bits stay, the address is canonical."""

from typing import NamedTuple

from pilot_agent.capture.errors import ConfigurationError
from pilot_agent.gotext import quote

_BITS = {4: 32, 6: 128}
_USUAL_LOOPBACK = "127.0.0.1/32"
_LOOPBACK_BITS = range(8, 33)


class Prefix(NamedTuple):
    """`text` is what goes into a rule; `family` is 4 or 6."""

    text: str
    family: int
    is_loopback: bool


def parse_prefix(text: str) -> Prefix:
    """Return the prefix that `ADDRESS/BITS` means.

    Raises:
        ValueError: it is none; the message is Go's (`netip.ParsePrefix`).
    """
    import ipaddress  # noqa: PLC0415  # most pods name no prefix, and wait for this command

    address, family, bits = _parts(text)
    parsed = ipaddress.ip_address(address)
    return Prefix(f"{canonical(address)}/{bits}", family, parsed.is_loopback)


def check_loopback(text: str) -> None:
    """Check the prefix that counts as the IPv4 loopback.

    Raises:
        ConfigurationError: no prefix, no loopback address, or one wider than 127.0.0.0/8.
    """
    if text == _USUAL_LOOPBACK:
        return
    import ipaddress  # noqa: PLC0415  # see above

    try:
        address, _, bits = _parts(text)
    except ValueError as error:
        raise ConfigurationError(f"failed to parse CIDR {quote(text)}: {error}") from error
    parsed = ipaddress.ip_address(address)
    if parsed.version != 4 or not parsed.is_loopback:
        raise ConfigurationError(f"expected valid IPv4 loopback address in CIDR {text}; found {address}")
    if bits not in _LOOPBACK_BITS:
        raise ConfigurationError(f"expected CIDR {text} to have mask in range [8, 32]; found {bits}")


def canonical(address: str) -> str:
    """Return an address as Go prints it; it must be one.

    Python before 3.13 prints IPv4-mapped addresses in groups of four digits.
    """
    import ipaddress  # noqa: PLC0415  # see above

    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        return f"::ffff:{parsed.ipv4_mapped}"
    return str(parsed)


def _parts(text: str) -> tuple[str, int, int]:
    import ipaddress  # noqa: PLC0415  # see above

    address, slash, bits = text.rpartition("/")
    if not slash:
        raise ValueError(f"netip.ParsePrefix({quote(text)}): no '/'")
    if "%" in address:
        raise ValueError(f"netip.ParsePrefix({quote(text)}): IPv6 zones cannot be present in a prefix")
    try:
        family = ipaddress.ip_address(address).version
    except ValueError:
        raise ValueError(
            f"netip.ParsePrefix({quote(text)}): ParseAddr({quote(address)}): unable to parse IP"
        ) from None
    if not (bits.isascii() and bits.isdigit()) or (len(bits) > 1 and bits.startswith("0")):
        raise ValueError(f"netip.ParsePrefix({quote(text)}): bad bits after slash: {quote(bits)}")
    if len(bits) > 3 or int(bits) > _BITS[family]:
        raise ValueError(f"netip.ParsePrefix({quote(text)}): prefix length out of range")
    return address, family, int(bits)
