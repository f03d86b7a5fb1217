"""One type's file on the disk: replaced as a whole, appended to, compacted. One thread uses it."""

import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from pilot_agent.xds.envelope import Span
from pilot_agent.xds.known_good import records
from pilot_agent.xds.known_good.content import Content, Resource, read_content
from pilot_agent.xds.known_good.records import Header, StoreError
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.type_urls import PREFIX

SUFFIX: Final = ".xlkg"
NEW_SUFFIX: Final = ".new"
COMPACTED_SUFFIX: Final = ".compacted"
_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._")
_NAME_LIMIT: Final = 120
_PLACE: Final = struct.Struct("!QQ")


def file_name(type_url: str) -> str:
    """Return the name of a type's file; empty for a type that has none."""
    if not type_url.startswith(PREFIX + "envoy."):
        return ""
    name = type_url.removeprefix(PREFIX)
    return name + SUFFIX if len(name) <= _NAME_LIMIT and _SAFE.issuperset(name) else ""


def load(path: Path, expected: Header) -> Content | None:
    """Return what the file holds, None if there is none.

    Raises:
        StoreError: it is damaged, or somebody else's.
        OSError: it cannot be read.
    """
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # Not mapped: the writer may cut a torn record off meanwhile.
        data = _read_all(descriptor)
    finally:
        os.close(descriptor)
    check(records.read_header(data)[0], expected)
    return read_content(data)[1]


def header_of(path: Path) -> Header:
    """Return whose file it is.

    Raises:
        StoreError: it is no such file, or its header is damaged.
        OSError: it cannot be read.
    """
    descriptor = _open(path, os.O_RDONLY)
    try:
        return records.read_header(os.read(descriptor, records.HEADER_LIMIT_BYTES))[0]
    finally:
        os.close(descriptor)


def write_whole(path: Path, header: Header, bodies: list[bytes]) -> int:
    """Put a file of these accepted responses in the place of what there is; return its size.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(path.name + NEW_SUFFIX)
    new.unlink(missing_ok=True)
    parts = [records.encode_header(header)]
    for body in bodies:
        parts += [records.encode_head(records.ACCEPTED, body), body]
    descriptor = _open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for part in parts:
            write_all(descriptor, part)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(path)
    return sum(map(len, parts))


def append(path: Path, at: int, kind: int, body: bytes) -> int:
    """Append a record behind offset `at`; return the new size.

    Raises:
        OSError: it cannot be written, or is gone.
    """
    descriptor = _open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, at)  # what a kill left of a torn record
        os.lseek(descriptor, at, os.SEEK_SET)
        head = records.encode_head(kind, body)
        write_all(descriptor, head)
        write_all(descriptor, body)
        return at + len(head) + len(body)
    finally:
        os.close(descriptor)


def whole_size(path: Path, expected: Header) -> int:
    """Return the size up to the last whole record; 0 if there is no file.

    Raises:
        StoreError: it is damaged, or somebody else's.
        OSError: it cannot be read.
    """
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        if not (size := os.fstat(descriptor).st_size):
            return 0
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as data:
            check(records.read_header(data)[0], expected)
            return records.end_of_whole(data)
    finally:
        os.close(descriptor)


class CompactionWanted(msgspec.Struct, frozen=True):
    """Asks a worker to write what the first `until` bytes of a file amount to beside it."""

    path: str
    until: int


class Compacted(msgspec.Struct, frozen=True):
    """The worker's answer."""

    size: int


def compact(request: bytes) -> bytes:
    """Be the worker: a CompactionWanted in, a Compacted out.

    Raises:
        StoreError: the file is damaged, or was replaced meanwhile.
        OSError: it cannot be read, or the other one not be written.
    """
    wanted = msgspec.msgpack.decode(request, type=CompactionWanted)
    path = Path(wanted.path)
    descriptor = _open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size < wanted.until:
            raise StoreError("it was replaced meanwhile")
        source = _OnDisk(descriptor, wanted.until)
        header, content = read_content(source, lambda variant, type_url: _Places(variant, type_url, source))
        parts = content.parts(content.resources, "")
        return msgspec.msgpack.encode(Compacted(_write_folded(compacted_path(path), header, parts)))
    finally:
        os.close(descriptor)


class _OnDisk:
    """The beginning of a file, read when it is asked for: a mapped one counts as the worker's memory."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(self._size)
        return os.pread(self._descriptor, max(stop - start, 0), start)


class _Places(Content):
    """Notes where each resource lies instead of holding it."""

    def __init__(self, variant: Variant, type_url: str, source: _OnDisk) -> None:
        super().__init__(variant, type_url)
        self._source = source

    def _body(self, response: bytes, where: Span, offset: int) -> bytes:
        del response
        return _PLACE.pack(offset + where[0], offset + where[1])

    def held(self, resource: Resource) -> bytes:
        start, end = _PLACE.unpack(resource.body)
        return self._source[start:end]


def _write_folded(path: Path, header: Header, parts: Iterable[bytes]) -> int:
    """Write a file of one accepted response that comes in parts; return its size.

    Its head, which has length and checksum, is written last: the file is of use when this has returned.
    """
    beginning = records.encode_header(header)
    at = len(beginning) + records.HEAD_BYTES
    path.unlink(missing_ok=True)
    descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        length = checksum = 0
        with os.fdopen(os.dup(descriptor), "wb", buffering=1 << 20) as file:
            file.seek(at)
            for part in parts:
                file.write(part)
                length, checksum = length + len(part), zlib.crc32(part, checksum)
        os.lseek(descriptor, 0, os.SEEK_SET)
        write_all(descriptor, beginning + records.head_of(records.ACCEPTED, length, checksum))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return at + length


def adopt(path: Path, compacted_size: int, tail_from: int, tail_to: int) -> int:
    """Put a compacted file in place, with what was appended meanwhile; return its size.

    Raises:
        OSError: it cannot be written.
    """
    new = compacted_path(path)
    source = _open(path, os.O_RDONLY)
    target = _open(new, os.O_WRONLY)
    try:
        os.lseek(target, compacted_size, os.SEEK_SET)
        at = tail_from
        while at < tail_to:
            part = os.pread(source, min(tail_to - at, 1 << 20), at)
            if not part:
                break
            write_all(target, part)
            at += len(part)
        os.fsync(target)
    finally:
        os.close(source)
        os.close(target)
    new.replace(path)
    return compacted_size + at - tail_from


def compacted_path(path: Path) -> Path:
    return path.with_name(path.name + COMPACTED_SUFFIX)


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while part := os.read(descriptor, 16 << 20):
        parts.append(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _open(path: Path, flags: int) -> int:
    """Open a regular file of ours, not a link to one.

    Raises:
        StoreError: it is something else, or others may write to it.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022:
        os.close(descriptor)
        raise StoreError(f"it is no file that we alone write: mode {stat.filemode(found.st_mode)}")
    return descriptor


def check(got: Header, expected: Header) -> None:
    """Raises: StoreError: the file is another node's, or of another variant."""
    if got != expected:
        raise StoreError(f"it is another's: got={got} expected={expected}")
