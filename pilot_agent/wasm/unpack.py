"""Takes a Wasm module out of what it came in: gzip, tar, both; or an image's layer. Always bounded.

Everything goes from file to file in pieces, so that a module's size is disk and not memory, and every
piece that comes out is counted: a small file that unpacks to a huge one ends at the limit.
"""

import gzip
import zlib
from pathlib import Path
from typing import IO, Final

from pilot_agent.wasm.errors import FetchError, InvalidModuleError
from pilot_agent.wasm.tar_stream import BLOCK, Entry, TarError, TarStream

WASM_MAGIC: Final = b"\0asm"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_TAR_MAGIC: Final = b"ustar"
_TAR_MAGIC_AT: Final = 257
_PIECE_BYTES: Final = 1 << 18
_WRAPPINGS: Final = 8  # gzip in tar in gzip …; nobody wraps so often
_SCAN_FACTOR: Final = 4
"""How much of a layer is looked through for the module, in units of the largest module allowed."""
_CORRUPT: Final = (zlib.error, EOFError, TarError, gzip.BadGzipFile)


class TooLargeError(FetchError):
    """More comes out than a module may have."""


def is_module(path: Path) -> bool:
    """Return whether the file begins like a Wasm module: magic number and version."""
    with path.open("rb") as file:
        head = file.read(8)
    return len(head) == 8 and head.startswith(WASM_MAGIC)


def unwrapped(path: Path, *, limit_bytes: int) -> Path:
    """Return the file with the module that is in `path`, however often it was wrapped.

    The files lie beside `path`. What cannot be unpacked counts as the module itself, as in the reference
    (and is then found to be none).

    Raises:
        TooLargeError: the module would be larger than `limit_bytes`.
        OSError: the disk.
    """
    current = path
    for _ in range(_WRAPPINGS):
        kind = _kind(current)
        if kind is None:
            return current
        inner = current.with_name(current.name + ".in")
        try:
            with current.open("rb") as source, inner.open("wb") as target:
                _unwrap(kind, source, target, limit_bytes)
        except (*_CORRUPT, InvalidModuleError):
            inner.unlink()
            return path
        current = inner
    return path


def plugin_of_layer(layer: IO[bytes], target: IO[bytes], *, limit_bytes: int) -> None:
    """Write the file named `plugin.wasm`, in whatever directory, of a gzipped tar to `target`.

    Raises:
        InvalidModuleError: there is none, or the layer is damaged.
        TooLargeError: the file, or what comes before it, is too large.
        OSError: the disk.
    """
    tar = TarStream(Bounded(layer, limit_bytes * _SCAN_FACTOR))
    try:
        while (entry := tar.next_file()) is not None:
            if entry.name.rpartition("/")[2] == "plugin.wasm":
                _copy(tar, entry, target, limit_bytes)
                return
    except _CORRUPT as error:
        raise InvalidModuleError(f"the layer is no gzipped tar: {error}") from error
    raise InvalidModuleError("no file plugin.wasm in the layer")


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(BLOCK)
    if head.startswith(WASM_MAGIC):
        return None
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    return "tar" if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC) else None


def _unwrap(kind: str, source: IO[bytes], target: IO[bytes], limit_bytes: int) -> None:
    if kind == "tar":
        tar = TarStream(source)
        entry = tar.next_file()
        if entry is None:
            raise InvalidModuleError("an empty tar")
        _copy(tar, entry, target, limit_bytes)
        return
    # A tar inside may be some headers and padding larger than the module in it.
    stream = Bounded(source, limit_bytes + 64 * BLOCK)
    while piece := stream.read(_PIECE_BYTES):
        target.write(piece)


def _copy(tar: TarStream, entry: Entry, target: IO[bytes], limit_bytes: int) -> None:
    if entry.size > limit_bytes:
        raise TooLargeError(f"a module of {entry.size} bytes exceeds the limit of {limit_bytes}")
    while piece := tar.read(_PIECE_BYTES):
        target.write(piece)


class Bounded:
    """Unpacks a gzipped stream, up to a limit."""

    def __init__(self, file: IO[bytes], limit_bytes: int) -> None:
        self._stream, self._left, self._limit = gzip.GzipFile(fileobj=file), limit_bytes, limit_bytes

    def read(self, size: int) -> bytes:
        """Raises: TooLargeError: more came out than the limit allows."""
        piece = self._stream.read(min(size, self._left + 1))
        self._left -= len(piece)
        if self._left < 0:
            raise TooLargeError(f"what was downloaded unpacks to more than {self._limit} bytes")
        return piece
