"""The identity that outlives its container: a file in memory, for a start while the CA is down.

A private key must not reach a disk, so the file is written on tmpfs alone (asked of the kernel each time;
`/etc/istio/proxy` is one in a pod). It is bound to the SPIFFE ID, is of this user and nobody else's to
read, is not used past the certificate's end, and goes when the pod ends in order.
"""

import contextlib
import ctypes
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import Final

import msgspec

from pilot_agent.security.certificate import certificate_facts
from pilot_agent.security.workload import Workload
from pilot_agent.unreadable import UNREADABLE

FILE_NAME: Final = "identity.kept"
_FORMAT: Final = 1
_MAGIC: Final = b"pilot-agent identity 1\n"
_LARGEST_BYTES: Final = 4 << 20
_IN_MEMORY: Final = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
_STATFS_BYTES: Final = 256  # larger than the structure is anywhere
_libc: Final = ctypes.CDLL(None, use_errno=True)


class NotKeptError(OSError):
    """There is nothing to be used, or it may not be written; the text says why."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept: enough to serve, and to rotate when it is due."""

    format: int = _FORMAT
    spiffe_id: str
    workload: Workload
    trust_bundle: tuple[str, ...] = ()
    roots_version_info: str = ""
    last_version: int = 0


class IdentityFile:
    """The one file in `directory`."""

    def __init__(self, directory: str) -> None:
        self.path = Path(directory, FILE_NAME)

    def save(self, kept: Kept) -> None:
        """Keep this instead of what was kept.

        Raises:
            NotKeptError: the directory is not in memory, or cannot be written to.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._require_memory(self.path.parent)
            _replace(self.path, _packed(kept))
        except NotKeptError:
            raise
        except OSError as error:
            raise NotKeptError(f"{self.path}: {error.strerror}") from error

    def load(self, *, spiffe_id: str, now_s: float) -> Kept:
        """Return what was kept for this identity.

        Raises:
            NotKeptError: nothing was, or it must not be used; what has no use any more is removed.
        """
        try:
            data = self._read()
        except NotKeptError:
            raise
        except OSError as error:
            raise NotKeptError(f"{self.path}: {error.strerror}") from error
        try:
            kept, not_after_s = _decoded(data, spiffe_id=spiffe_id)
        except ValueError as error:
            self.remove()
            raise NotKeptError(f"{self.path} is removed: {error}") from error
        if not_after_s <= now_s:  # it stays: the clock may be wrong
            raise NotKeptError(f"{self.path} is not used: it expired {now_s - not_after_s:.0f} s ago")
        return kept

    def remove(self) -> None:
        """Let nothing be left of it; harmless where nothing is."""
        for path in (self.path, _unfinished(self.path)):
            with contextlib.suppress(OSError):
                path.unlink()

    def _read(self) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_BYTES:
                raise NotKeptError(f"{self.path} is not used: no file that this agent writes")
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise NotKeptError(
                    f"{self.path} is not used: owner got={found.st_uid} expected={os.geteuid()}, "
                    f"mode got={stat.S_IMODE(found.st_mode):o} expected=600"
                )
            self._require_memory_at(descriptor, self.path)
            return os.read(descriptor, found.st_size)
        finally:
            os.close(descriptor)

    def _require_memory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._require_memory_at(descriptor, directory)
        finally:
            os.close(descriptor)

    @staticmethod
    def _require_memory_at(descriptor: int, path: Path) -> None:
        kind = file_system_type(descriptor)
        if kind not in _IN_MEMORY:
            raise NotKeptError(f"{path}: file system type got={kind:#x} expected=tmpfs ({0x01021994:#x})")


def file_system_type(descriptor: int) -> int:
    """Return `statfs.f_type` of an open file: which kind of file system it is on.

    Raises:
        OSError: the kernel does not say.
    """
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(descriptor, found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fstatfs: {os.strerror(number)}")
    size = 4 if sys.byteorder == "little" else ctypes.sizeof(ctypes.c_long)  # a long; its low half is enough
    return int.from_bytes(found.raw[:size], sys.byteorder)


def _packed(kept: Kept) -> bytes:
    content = msgspec.msgpack.encode(kept)
    return _MAGIC + zlib.crc32(content).to_bytes(4, "big") + content


def _decoded(data: bytes, *, spiffe_id: str) -> tuple[Kept, float]:
    """Return what the bytes mean, and the end of the certificate in it.

    Raises:
        ValueError: damaged, of another version or identity.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("of another version")
    content = data[len(_MAGIC) + 4 :]
    if zlib.crc32(content).to_bytes(4, "big") != data[len(_MAGIC) : len(_MAGIC) + 4]:
        raise ValueError("damaged")
    try:
        kept = msgspec.msgpack.decode(content, type=Kept)
    except UNREADABLE as error:
        raise ValueError(f"of another version: {error}") from error
    if kept.spiffe_id != spiffe_id:
        raise ValueError(f"identity got={kept.spiffe_id} expected={spiffe_id}")
    return kept, certificate_facts(kept.workload.chain_pem).not_after_unix_s


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _replace(path: Path, data: bytes) -> None:
    new = _unfinished(path)
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # of a killed predecessor
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    new.rename(path)
