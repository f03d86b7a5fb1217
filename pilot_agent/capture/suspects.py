"""Which flags may be why iptables or nft refused: they judge the values, and do not know the flags."""

from typing import Final

from pilot_agent.capture.options import FLAG_OF, WILDCARD, CaptureOptions, split
from pilot_agent.gotext import quote

_PORTS: Final = (
    "envoy_port",
    "inbound_capture_port",
    "inbound_tunnel_port",
    "inbound_ports",
    "local_exclude_ports",
    "outbound_ports",
    "local_outbound_ports_exclude",
)
_SINGLE_PORTS: Final = _PORTS[:3]
_OWNERS: Final = ("proxy_uid", "proxy_gid", "owner_groups", "owner_groups_exclude")
_INTERFACES: Final = ("exclude_interfaces", "kube_virt_interfaces")
_MARKS: Final = ("inbound_tproxy_mark",)
_LONGEST_INTERFACE: Final = 15
_GROUPS_THAT_FIT: Final = 62


def suspects(options: CaptureOptions) -> str:
    """Return a text to put behind an error, empty when every value looks as it should."""
    settings = options.settings._asdict()
    found = [
        f"{FLAG_OF[member]} has {quote(item)}, which is no {kind}"
        for members, kind, looks_right in (
            (_PORTS, "port", _is_port),
            (_OWNERS, "known id or name", _is_owner),
            (_INTERFACES, "interface name", _is_interface),
            (_MARKS, "mark", _is_number),
        )
        for member in members
        for item in split(settings[member])
        if item != WILDCARD and not looks_right(item, member)
    ]
    found += [f"{FLAG_OF[member]} is empty" for member in _SINGLE_PORTS if not settings[member]]
    groups = len(options.owner_groups or ())
    if groups > _GROUPS_THAT_FIT:
        found.append(
            f"{FLAG_OF['owner_groups']} has {groups} groups, and a line of iptables-restore 255 words"
        )
    return f" ({'; '.join(found)})" if found else ""


def _is_port(text: str, _member: str) -> bool:
    low, _, high = text.partition(":")
    return all(_is_number(part, "") and int(part) <= 65535 for part in (low, high or low))


def _is_number(text: str, _member: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _is_owner(text: str, member: str) -> bool:
    from grp import getgrnam  # noqa: PLC0415  # after a failure alone
    from pwd import getpwnam  # noqa: PLC0415

    try:
        return _is_number(text, member) or bool((getpwnam if member == "proxy_uid" else getgrnam)(text))
    except (KeyError, ValueError):
        return False


def _is_interface(text: str, _member: str) -> bool:
    return len(text) <= _LONGEST_INTERFACE and not any(one.isspace() or one == "/" for one in text)
