"""`host:port` texts, read by Go's rules and refused with Go's words."""

import ipaddress
import re
from typing import Final

_DECIMAL: Final = re.compile(r"[+-]?[0-9]+")
_LABEL: Final = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")


def split_host_port(address: str) -> tuple[str, str]:
    """Return host (without brackets) and port, both texts.

    Raises:
        ValueError: there is no port, or a colon or bracket too many.
    """
    head, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"address {address}: missing port in address")
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket:
            raise ValueError(f"address {address}: missing ']' in address")
        if not rest.startswith(":"):
            raise ValueError(f"address {address}: missing port in address")
        if rest != f":{port}":
            raise ValueError(f"address {address}: too many colons in address")
        return host, port
    if ":" in head:
        raise ValueError(f"address {address}: too many colons in address")
    return head, port


def check_address(address: str) -> None:
    """Raise ValueError unless the text is `host:port` with a DNS name or an IP and a port of 1 to 65535."""
    try:
        host, port_text = split_host_port(address)
    except ValueError as error:
        raise ValueError(f'unable to split "{address}": {error}') from None
    try:
        port = decimal(port_text)
    except ValueError as error:
        raise ValueError(f"port ({port_text}) is not a number: {error}") from None
    check_port(port)
    if not is_domain_name(host) and not is_ip(host):
        raise ValueError(f'"{host}" is not a valid hostname or an IP address')


def check_port(port: int) -> None:
    """Raise ValueError unless the port is 1 to 65535."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port number {port} must be in the range 1..65535")


def is_domain_name(name: str) -> bool:
    """Return whether all labels fit DNS (RFC 1123); the last may be empty but not all digits."""
    labels = name.split(".")
    if not name or len(name) > 255 or labels[-1].isdecimal():
        return False
    return all(is_label(label) for label in (labels if labels[-1] else labels[:-1]))


def is_label(label: str) -> bool:
    """Return whether a text is one DNS label."""
    return len(label) <= 63 and _LABEL.fullmatch(label) is not None


def decimal(text: str) -> int:
    """Return a decimal integer with an optional sign, and nothing else that Python would take for one.

    Raises:
        ValueError: it is none; the message is Go's own.
    """
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def is_ip(text: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def join_host_port(host: str, port: str) -> str:
    """Return `host:port`, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
