"""The header blocks of gRPC: a request's are read with the hpack library, a response's are a few fixed bytes.

Responses use neither Huffman coding nor the dynamic table, so that nothing has to be kept for them.
"""

from typing import Final

import hpack

from pilot_agent.rpc.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFaultError
from pilot_agent.rpc.status import Code, percent_encoded

LARGEST_HEADERS_BYTES: Final = 64 * 1024


class HeaderReader:
    """Reads the header blocks of one connection, which build on each other: each must be read, in order."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=LARGEST_HEADERS_BYTES)

    def read(self, block: bytes) -> dict[str, str]:
        """Return the headers; of one that comes twice, the first.

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
        found: dict[str, str] = {}
        for name, value in pairs:
            found.setdefault(bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
        return found


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + _text(name) + _text(value)


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


_STATUS_200: Final = b"\x88"  # the static table's entry 8
RESPONSE: Final = _STATUS_200 + _literal(b"content-type", b"application/grpc")
"""Opens a response."""

NOT_GRPC: Final = _literal(b":status", b"415")
"""Answers a request that is no gRPC."""


def trailers(code: Code, details: str) -> bytes:
    """Return what closes a response."""
    message = _literal(b"grpc-message", percent_encoded(details)) if details else b""
    return _literal(b"grpc-status", b"%d" % code) + message
