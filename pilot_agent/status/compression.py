"""Whether and how an answer is compressed: gzip, where the client wants it and it is worth it."""

import zlib
from collections.abc import Iterator
from typing import Final

MIN_BYTES: Final = 1024
"""Shorter bodies are sent as they are, as the reference does."""

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_LEVEL: Final = 1  # Envoy's page shrinks to a tenth at the cheapest level


def wants_gzip(accept_encoding: str | None) -> bool:
    """Return whether `Accept-Encoding` lets gzip be used; without the header nothing is compressed."""
    wanted: dict[str, float] = {}
    for entry in (accept_encoding or "").lower().split(","):
        name, _, parameters = entry.partition(";")
        wanted[name.strip()] = _quality(parameters)
    return wanted.get("gzip", wanted.get("*", 0.0)) > 0.0


def compressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the gzip form of what `chunks` yields, a piece at a time; closes `chunks`."""
    squeezer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    try:
        for chunk in chunks:
            if piece := squeezer.compress(chunk):
                yield piece
        yield squeezer.flush()
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
