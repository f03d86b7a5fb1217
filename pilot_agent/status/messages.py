"""One request and its answer, free of sockets."""

import ipaddress
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

Headers = tuple[tuple[str, str], ...]

TEXT: Final = "text/plain; charset=utf-8"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked. Its body was read and thrown away: nothing here wants one."""

    method: str
    path: str  # percent escapes decoded
    query: str  # as sent, without the question mark
    headers: Headers  # names in lower case, in order
    peer: str  # the address at the other end of the TCP connection

    def header(self, name: str) -> str | None:
        """Return the first value of the header `name` (in lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    def from_loopback(self) -> bool:
        """Return whether the peer is this machine: the TCP address alone counts, no header."""
        try:
            address = ipaddress.ip_address(self.peer.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return bool((mapped or address).is_loopback)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. A body that is an iterator is streamed and closed by the server."""

    status: int = 200
    content_type: str = ""  # empty: no such header
    headers: Headers = ()
    body: bytes | Iterator[bytes] = b""
    afterwards: Callable[[], None] | None = None  # done when the answer was handed to the kernel


def printable(sent: str) -> str:
    """Return what a client sent, fit for the log: it forges no other line and moves no cursor."""
    return "".join(char if char.isprintable() else f"%{ord(char):02X}" for char in sent)


def text(status: int, body: str) -> Answer:
    """Return a plain answer as Go's `http.Error` makes it: a line feed is added, sniffing is switched off."""
    return Answer(
        status=status,
        content_type=TEXT,
        headers=(("X-Content-Type-Options", "nosniff"),),
        body=f"{body}\n".encode(),
    )
