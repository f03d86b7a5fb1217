"""An actor's memory that outlives the actor: two checksummed slots in a memfd, written in turn.

The supervisor makes the file; each incarnation maps nothing and keeps nothing open but it. A kill in
the middle of a write tears the slot that is being written; the other one is whole. A large state is kept
once: when its successor is written to the end, the older one is let go. It is memory and never a disk
file, so a private key may stand in it.
"""

import contextlib
import mmap
import os
import struct
import threading
import zlib
from typing import Final, NamedTuple, TypeVar

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.unreadable import UNREADABLE

M = TypeVar("M")

_log = get_logger()

_FORMAT_VERSION: Final = 1
_SLOT_OFFSETS: Final = (0, 1 << 36)
"""The second slot begins far behind the first; the file is sparse, so the gap costs nothing."""

_FIELDS: Final = struct.Struct("!4sHHQQI")
_HEADER_BYTES: Final = _FIELDS.size + 4  # and a checksum of their own: a torn length is not believed
_MAGIC: Final = b"note"
_GIVE_BACK_BYTES: Final = 64 * 1024
_LARGE_BYTES: Final = 1 << 20
"""Not worth keeping twice; a smaller one is not worth the page faults of writing it to new pages."""
_PAGE: Final = mmap.PAGESIZE


class _Slot(NamedTuple):
    sequence: int
    type_name: str
    content: bytes


class FileNotebook:
    """The notebook of one actor, for one process at a time."""

    def __init__(self, descriptor: int) -> None:
        """Use `descriptor`, which stays the caller's."""
        self._descriptor = descriptor
        self._lock = threading.Lock()
        newest = max(range(2), key=self._sequence)
        self._sequence_now = max(self._sequence(newest), 0)
        self._next_slot = 1 - newest if self._sequence_now else 0

    def save(self, state: object) -> None:
        """Keep `state`, a frozen Struct or dataclass, instead of what was kept."""
        content = msgspec.msgpack.encode(state)
        name = _type_name(type(state)).encode()
        with self._lock:
            self._sequence_now += 1
            self._write(self._next_slot, name, content)
            self._next_slot = 1 - self._next_slot
            self._let_go_if_large(self._next_slot, name)

    def restore(self, state_type: type[M]) -> M | None:
        """Return what was saved last, the older slot's where the newer one is torn.

        None when nothing fits: an empty notebook, both torn, or another type or version of it.
        """
        slots = [slot for slot in (self._read(0), self._read(1)) if slot is not None]
        for slot in sorted(slots, key=lambda slot: slot.sequence, reverse=True):
            if slot.type_name != _type_name(state_type):
                _log.warn(f"notebook: got={slot.type_name} expected={_type_name(state_type)}: ignored")
                continue
            try:
                return msgspec.msgpack.decode(slot.content, type=state_type)
            except UNREADABLE as error:
                _log.warn(f"notebook: {slot.type_name} does not fit: {error}: ignored")
        return None

    def holds(self) -> str:
        """Return the name of the type that was saved last, "" for an empty or unreadable notebook."""
        slots = [slot for slot in (self._read(0), self._read(1)) if slot is not None]
        return max(slots, key=lambda slot: slot.sequence).type_name if slots else ""

    def _write(self, slot: int, name: bytes, content: bytes) -> None:
        offset = _SLOT_OFFSETS[slot]
        body = name + content
        old_bytes = self._length(slot)
        os.pwrite(self._descriptor, bytes(_HEADER_BYTES), offset)  # from here on the slot is torn
        _pwrite_all(self._descriptor, body, offset + _HEADER_BYTES)
        header = _FIELDS.pack(
            _MAGIC,
            _FORMAT_VERSION,
            len(name),
            self._sequence_now,
            len(content),
            _checksum(self._sequence_now, body),
        )
        header += zlib.crc32(header).to_bytes(4, "big")
        os.pwrite(self._descriptor, header, offset)
        if old_bytes - len(body) > _GIVE_BACK_BYTES:
            self._give_back(offset, len(body), old_bytes)

    def _let_go_if_large(self, slot: int, name: bytes) -> None:
        """Give the older state's pages back, now that the newer one is whole.

        One of another version stays until it is overwritten: that version may come back.
        """
        size, offset = self._length(slot), _SLOT_OFFSETS[slot]
        if size > _LARGE_BYTES and _pread_all(self._descriptor, len(name), offset + _HEADER_BYTES) == name:
            os.pwrite(self._descriptor, bytes(_HEADER_BYTES), offset)
            self._give_back(offset, 0, size)

    def _give_back(self, offset: int, kept: int, before: int) -> None:
        """Return the pages behind a slot that shrank to the system."""
        start = offset + (_HEADER_BYTES + kept + _PAGE - 1) // _PAGE * _PAGE
        size = offset + _HEADER_BYTES + before - start
        if size <= 0 or os.fstat(self._descriptor).st_size < start + size:
            return
        with contextlib.suppress(OSError), mmap.mmap(self._descriptor, size, offset=start) as pages:
            pages.madvise(mmap.MADV_REMOVE)

    def _header(self, slot: int) -> tuple[bytes, int, int, int, int, int] | None:
        data = os.pread(self._descriptor, _HEADER_BYTES, _SLOT_OFFSETS[slot])
        fields_part, checksum = data[: _FIELDS.size], data[_FIELDS.size :]
        if checksum != zlib.crc32(fields_part).to_bytes(4, "big"):
            return None
        header = _FIELDS.unpack(fields_part)
        return header if header[:2] == (_MAGIC, _FORMAT_VERSION) else None

    def _length(self, slot: int) -> int:
        header = self._header(slot)
        return header[2] + header[4] if header is not None else 0

    def _sequence(self, slot: int) -> int:
        kept = self._read(slot)
        return kept.sequence if kept is not None else -1

    def _read(self, slot: int) -> _Slot | None:
        header = self._header(slot)
        if header is None:
            return None
        _, _, name_bytes, sequence, content_bytes, checksum = header
        size = os.fstat(self._descriptor).st_size
        start = _SLOT_OFFSETS[slot] + _HEADER_BYTES
        if start + name_bytes + content_bytes > size:
            return None
        body = _pread_all(self._descriptor, name_bytes + content_bytes, start)
        if _checksum(sequence, body) != checksum:
            return None
        return _Slot(sequence, body[:name_bytes].decode(errors="replace"), body[name_bytes:])


def make_notebook_file(name: str) -> int:
    """Return the descriptor of a new, empty notebook."""
    return os.memfd_create(f"notebook-{name}", os.MFD_CLOEXEC)


def _type_name(state_type: type) -> str:
    """Name the type together with its version: its own `VERSION`, else 1, and its field names."""
    known = getattr(state_type, "__struct_fields__", None) or tuple(vars(state_type)["__dataclass_fields__"])
    names = ",".join(known)
    return f"{state_type.__qualname__}/{getattr(state_type, 'VERSION', 1)}/{zlib.crc32(names.encode()):08x}"


def _checksum(sequence: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(sequence.to_bytes(8, "big")))


def _pwrite_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _pread_all(descriptor: int, size: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = os.pread(descriptor, size, offset)
        if not part:
            break
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)
