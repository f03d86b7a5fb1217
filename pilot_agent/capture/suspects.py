"""Which flags may be why iptables or nft refused: they judge the values, and do not know the flags."""

from typing import Final

from pilot_agent.capture.options import FLAG_OF, WILDCARD, CaptureOptions, split
from pilot_agent.gotext import quote

_SINGLE_PORTS: Final = ("envoy_port", "inbound_capture_port", "inbound_tunnel_port")
_PORTS: Final = (
    "inbound_ports",
    "local_exclude_ports",
    "outbound_ports",
    "local_outbound_ports_exclude",
)
_OWNERS: Final = ("proxy_uid", "proxy_gid", "owner_groups", "owner_groups_exclude")
_INTERFACES: Final = ("exclude_interfaces", "kube_virt_interfaces")
_EVERYTHING: Final = {("inbound_ports", WILDCARD), ("owner_groups", WILDCARD)}
_MARKS: Final = ("inbound_tproxy_mark",)
_INTERFACE: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14}"


def suspects(options: CaptureOptions) -> str:
    """Return a text to put behind an error, empty when every value looks as it should."""
    settings = options.settings._asdict()
    found = [
        f"{FLAG_OF[member]} has {quote(settings[member])}, which is no port"
        for member in _SINGLE_PORTS
        if not _is_port(settings[member], member)
    ]
    found += [
        f"{FLAG_OF[member]} has {quote(item)}, which is no {kind}"
        for members, kind, looks_right in (
            (_PORTS, "port", _is_port_or_range),
            (_OWNERS, "known id or name", _is_owner),
            (_INTERFACES, "interface name", _is_nft_word if settings["native_nftables"] else _is_interface),
            (_MARKS, "mark", _is_number),
        )
        for member in members
        for item in split(settings[member])
        if not looks_right(item, member) and (member, settings[member]) not in _EVERYTHING
    ]
    return f" ({'; '.join(found)})" if found else ""


def _is_port_or_range(text: str, member: str) -> bool:
    low, _, high = text.partition(":")
    return _is_port(low, member) and _is_port(high or low, member)


def _is_port(text: str, member: str) -> bool:
    return _is_number(text, member) and int(text) <= 65535 and text == str(int(text))


def _is_number(text: str, _member: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _is_owner(text: str, member: str) -> bool:
    from grp import getgrnam  # noqa: PLC0415  # after a failure alone
    from pwd import getpwnam  # noqa: PLC0415

    try:
        return all(_is_number(part, member) for part in text.split("-")) or bool(
            (getpwnam if member == "proxy_uid" else getgrnam)(text)
        )
    except (KeyError, ValueError):
        return False


def _is_interface(text: str, member: str) -> bool:
    return text == "+" or _is_nft_word(text.removesuffix("+"), member)


def _is_nft_word(text: str, _member: str) -> bool:
    import re  # noqa: PLC0415

    return re.fullmatch(_INTERFACE, text) is not None
