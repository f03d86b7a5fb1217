"""resolv.conf, as far as the reference reads it: name servers and the search list; options are ignored."""

import socket
from pathlib import Path
from typing import Final

import msgspec

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_MAX_BYTES: Final = 1 << 20


class ResolvConf(msgspec.Struct, frozen=True):
    """What a resolv.conf says."""

    name_servers: tuple[str, ...] = ()  # addresses without a port: it is 53
    search: tuple[str, ...] = ()

    @property
    def has_ipv4(self) -> bool:
        return any(_is_address(socket.AF_INET, server) for server in self.name_servers)

    @property
    def has_ipv6(self) -> bool:
        return any(_is_address(socket.AF_INET6, server.partition("%")[0]) for server in self.name_servers)


def parse(text: str) -> ResolvConf:
    """Read the lines; the last `search` or `domain` line counts, every `nameserver` does."""
    name_servers, search = list[str](), tuple[str, ...]()
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                name_servers.append(server)
            case ["domain", domain, *_]:
                search = (domain,)
            case ["search", *domains]:
                search = tuple(domains)
    return ResolvConf(tuple(name_servers), search)


def read(path: Path = RESOLV_CONF) -> ResolvConf:
    """Read the file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return parse(file.read(_MAX_BYTES).decode(errors="replace"))


def _is_address(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):  # ValueError: a NUL, or a letter that ASCII has not
        return False
    return True
