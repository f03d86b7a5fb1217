"""Whether and how an answer is compressed: as the client wants it, where it is worth it.

zstd wherever Python has it: from 3.14 on, or with the package `backports.zstd`. It is loaded when the first
client wants it (0.6 MB); without it such a client gets gzip, or the page as it is.
"""

import functools
import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, Protocol

MIN_BYTES: Final = 1024
"""Shorter bodies are sent as they are, as the reference does."""

_PACKED_ALREADY: Final = ("compress", "zip", "snappy", "lzma", "xz", "zstd", "brotli", "stuffit")
_PACKED_KINDS: Final = ("video/", "audio/", "image/jp")

Encoding = Literal["gzip", "zstd"]

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_LEVEL: Final = 1  # Envoy's page shrinks to a tenth at the cheapest level


class _Squeezer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def chosen(accept_encoding: str | None) -> Encoding | None:
    """Return what `Accept-Encoding` wants most; None for the body as it is, also without the header.

    zstd wins where both are equally wanted. Source: the reference.
    """
    wanted: dict[str, float] = {}
    for entry in (accept_encoding or "").lower().split(","):
        name, _, parameters = entry.partition(";")
        wanted[name.strip()] = _quality(parameters)
    gzip, zstd = wanted.get("gzip", wanted.get("*", 0.0)), wanted.get("zstd", 0.0)
    if zstd > 0.0 and zstd >= gzip and _zstd() is not None:
        return "zstd"
    return "gzip" if gzip > 0.0 else None


def is_packed(content_type: str) -> bool:
    """Return whether bodies of this type have no air left in them. Source: the reference's compressor."""
    kind = content_type.lower()
    return kind.startswith(_PACKED_KINDS) or any(word in kind for word in _PACKED_ALREADY)


def compressed(chunks: Iterator[bytes], encoding: Encoding) -> Iterator[bytes]:
    """Yield the compressed form of what `chunks` yields, a piece at a time; closes `chunks`."""
    squeezer = _squeezer(encoding)
    try:
        for chunk in chunks:
            if piece := squeezer.compress(chunk):
                yield piece
        yield squeezer.flush()
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _squeezer(encoding: Encoding) -> _Squeezer:
    if encoding == "gzip":
        return zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    make = _zstd()
    assert make is not None, "zstd is chosen only where it is there"
    return make()


@functools.cache
def _zstd() -> Callable[[], _Squeezer] | None:
    """Return what makes a zstd compressor; None where Python has none."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            module: Any = importlib.import_module(name)  # Any: neither has to be there
        except ImportError:
            continue
        return functools.partial(module.ZstdCompressor, level=_LEVEL)
    return None


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
