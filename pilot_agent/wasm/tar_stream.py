"""Reads a tar from a stream, one file after the other, with bounded memory whatever the headers say.

`tarfile` decodes the headers; its own reader would take an extended header of any size into memory.
"""

import tarfile
from typing import Final, NamedTuple, Protocol

BLOCK: Final = tarfile.BLOCKSIZE
_HEADER_LIMIT_BYTES: Final = 1 << 20  # of an extended header; Go's reader has the same
_HEADERS_IN_A_ROW: Final = 16
_SKIP_BYTES: Final = 1 << 18
_WITHOUT_CONTENT: Final = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
)
_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class TarError(ValueError):
    """The bytes are no tar, or one that nobody makes."""


class Readable(Protocol):
    """What a tar is read from."""

    def read(self, size: int, /) -> bytes: ...


class Entry(NamedTuple):
    """One regular file."""

    name: str
    size: int


class TarStream:
    """`next_file` goes to the next regular file, `read` reads that file's content."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._left = 0  # of the current content
        self._padding = 0

    def next_file(self) -> Entry | None:
        """Return the next regular file, None at the end.

        Raises:
            TarError, EOFError: the tar is damaged.
        """
        name, size, extended = "", -1, 0
        while (info := self._header()) is not None:
            if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                extended += 1
                if extended > _HEADERS_IN_A_ROW:
                    raise TarError(f"more than {_HEADERS_IN_A_ROW} extended headers for one file")
                content = self._content_of(info)
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    name = content.rstrip(b"\0").decode(errors="surrogateescape")
                else:
                    name, size = _from_pax(content, name, size)
            elif info.type in _FILES:
                entry = Entry(name or info.name, size if size >= 0 else info.size)
                self._begin(entry.size)
                return entry
            elif info.type == tarfile.GNUTYPE_SPARSE:
                raise TarError("a sparse file")
            else:
                self._begin(0 if info.type in _WITHOUT_CONTENT else info.size)
                name, size, extended = "", -1, 0
        return None

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of the current file, nothing at its end.

        Raises:
            EOFError: the tar ends before the file does.
        """
        piece = self._source.read(min(size, self._left))
        if not piece and self._left:
            raise EOFError(f"the tar ends {self._left} bytes before its file does")
        self._left -= len(piece)
        return piece

    def _header(self) -> tarfile.TarInfo | None:
        self._skip()
        block = self._block()
        if len(block) < BLOCK or not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise TarError(f"no tar header: {error}") from error
        if info.size < 0:
            raise TarError(f"a file of {info.size} bytes")
        return info

    def _block(self) -> bytes:
        block = b""
        while len(block) < BLOCK and (piece := self._source.read(BLOCK - len(block))):
            block += piece
        return block

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _skip(self) -> None:
        while self.read(_SKIP_BYTES):
            pass
        self._left, self._padding = self._padding, 0
        while self.read(BLOCK):
            pass

    def _content_of(self, info: tarfile.TarInfo) -> bytes:
        if info.size > _HEADER_LIMIT_BYTES:
            raise TarError(f"an extended header of {info.size} bytes: at most {_HEADER_LIMIT_BYTES}")
        self._begin(info.size)
        content = b""
        while piece := self.read(_SKIP_BYTES):
            content += piece
        return content


def _from_pax(content: bytes, name: str, size: int) -> tuple[str, int]:
    """Return name and size as the records say (`LENGTH KEY=VALUE`, newline), else as they were."""
    at = 0
    while at < len(content):
        digits, space, _ = content[at : at + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            raise TarError(f"a pax record of length {digits[:20]!r}")
        key, _, value = content[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if key == b"path":
            name = value.decode(errors="surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise TarError(f"a pax size of {value[:20]!r}")
            size = int(value)
        at += int(digits)
    return name, size
