"""The header blocks of gRPC: the peer's are read with the hpack library, ours are a few literal bytes.

Ours use neither Huffman coding nor the dynamic table, so that nothing has to be kept for them.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Final

import hpack

from pilot_agent.rpc.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFaultError
from pilot_agent.rpc.status import Code, percent_encoded

Pairs = list[tuple[str, str]]

LARGEST_HEADERS_BYTES: Final = 64 * 1024

_GRPC: Final = "application/grpc"
_PSEUDO: Final = frozenset({":method", ":scheme", ":path", ":authority"})
_OF_CONNECTIONS: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
_CALL_FIELDS: Final = (
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"pilot-agent"),
    (b"te", b"trailers"),
    (b"grpc-accept-encoding", b"identity"),
)
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_NOT_IN_VALUES: Final = re.compile(r"[\0\r\n]")


class HeaderReader:
    """Reads the header blocks of one connection, which build on each other: each must be read, in order."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=LARGEST_HEADERS_BYTES)

    def read(self, block: bytes) -> Pairs:
        """Return names and values in order.

        Raises:
            ConnectionFaultError: the block is malformed or too large.
        """
        try:
            pairs = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as error:
            raise ConnectionFaultError(
                ENHANCE_YOUR_CALM, f"headers larger than {LARGEST_HEADERS_BYTES} bytes"
            ) from error
        except hpack.HPACKError as error:
            raise ConnectionFaultError(COMPRESSION_ERROR, f"malformed headers: {error}") from error
        return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in pairs]

    def table(self) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
        """Return the fields that blocks may refer to, newest first, and the most bytes of them."""
        table = self._decoder.header_table
        return tuple((bytes(name), bytes(value)) for name, value in table.dynamic_entries), table.maxsize

    def resume(self, entries: Sequence[tuple[bytes, bytes]], most_bytes: int) -> None:
        """Go on with the table of another reader."""
        table = self._decoder.header_table
        table.maxsize = most_bytes
        for name, value in reversed(entries):
            table.add(name, value)


def request(pairs: Pairs) -> dict[str, str] | None:
    """Return a request's headers, of one that comes twice the first; None if they are malformed.

    Source: RFC 9113, sections 8.2 and 8.3.
    """
    found: dict[str, str] = {}
    is_among_fields = False
    for name, value in pairs:
        if name in _PSEUDO:
            if is_among_fields or name in found:
                return None
        elif _is_field(name, value):
            is_among_fields = True
        else:
            return None
        found.setdefault(name, value)
    return found if all(found.get(name) for name in (":method", ":scheme", ":path")) else None


def are_trailers(pairs: Pairs) -> bool:
    """Return whether these may end a request."""
    return all(_is_field(name, value) for name, value in pairs)


def is_grpc(found: dict[str, str]) -> bool:
    """Return whether a request with these headers is a call. Source: gRPC over HTTP2."""
    return found[":method"] == "POST" and is_grpc_content(found)


def is_grpc_content(found: dict[str, str]) -> bool:
    """Return whether these headers announce gRPC's messages."""
    kind = found.get("content-type", "")
    return kind == _GRPC or kind.startswith((f"{_GRPC}+", f"{_GRPC};"))


def _is_field(name: str, value: str) -> bool:
    if name in _OF_CONNECTIONS or (name == "te" and value != "trailers"):
        return False
    return _NAME.fullmatch(name) is not None and _NOT_IN_VALUES.search(value) is None


def _literal(name: bytes, value: bytes, *, is_secret: bool = False) -> bytes:
    """Return a field that is not put into the table; a secret one by nobody on its way."""
    return (b"\x10" if is_secret else b"\0") + _text(name) + _text(value)


def _text(value: bytes) -> bytes:
    return _integer(len(value), prefix_bits=7) + value


def _integer(value: int, *, prefix_bits: int) -> bytes:
    """Return an integer as RFC 7541, section 5.1 has it, with the bits before the prefix 0."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((value,))
    found, value = [limit], value - limit
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def call(path: str, *, authority: str, is_secure: bool, metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Return the header block that opens a call; bytes go in base64, as names in `-bin` want it."""
    scheme = b"\x87" if is_secure else b"\x86"  # the static table's entries 7 and 6; 3 is POST
    fields = [(b":path", path.encode()), (b":authority", authority.encode()), *_CALL_FIELDS]
    for name, value in metadata:
        plain = value.encode() if isinstance(value, str) else base64.b64encode(value).rstrip(b"=")
        fields.append((name.encode(), plain))
    return (
        b"\x83" + scheme + b"".join(_literal(*each, is_secret=each[0] == b"authorization") for each in fields)
    )


NO_TABLE: Final = b"\x20"
"""Begins a block where the client made the dynamic table smaller: it wants to be told that it has 0 bytes."""

_STATUS_200: Final = b"\x88"  # the static table's entry 8
RESPONSE: Final = _STATUS_200 + _literal(b"content-type", b"application/grpc")
"""Opens a response."""

NOT_GRPC: Final = _literal(b":status", b"415")
"""Answers a request that is no gRPC."""


def trailers(code: Code, details: str) -> bytes:
    """Return what closes a response."""
    message = _literal(b"grpc-message", percent_encoded(details)) if details else b""
    return _literal(b"grpc-status", b"%d" % code) + message
