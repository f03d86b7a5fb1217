"""The cache's table of contents: a file beside the modules, which outlives a process and which two can share.

It is replaced whole (written beside, then renamed), so a reader needs no lock and never sees half of
it. A writer holds an advisory lock while it reads, changes and replaces. Whoever cannot have the lock
in time, or cannot write, goes on without: what is not in the table is fetched again.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pilot_agent.log import get_logger

INDEX: Final = "wasm-index.json"
LOCK: Final = "wasm-index.lock"
_FORMAT: Final = 1
_LOCK_TRIES_EVERY_S: Final = 0.02
_READ_LIMIT_BYTES: Final = 64 << 20
T = TypeVar("T")
_log = get_logger("wasm")


class Entry(msgspec.Struct, kw_only=True):
    """One module on the disk; its key is its checksum, in the folder of its name."""

    sha256: str  # of the file; an image's checksum is its manifest's
    size_bytes: int
    touched_unix_s: float


class Tag(msgspec.Struct, kw_only=True):
    """What a URL without a digest led to, and which resource versions know it."""

    folder: str
    checksum: str
    versions: dict[str, str] = {}  # resource name → resource version


class Contents(msgspec.Struct, kw_only=True):
    """The whole table."""

    format: int = _FORMAT
    modules: dict[str, dict[str, Entry]] = {}  # folder (sha256 of the module's name) → checksum → entry
    tags: dict[str, Tag] = {}  # sha256 of the URL → tag

    def count(self) -> int:
        return sum(map(len, self.modules.values()))

    def find(self, folder: str, checksum: str) -> Entry | None:
        return self.modules.get(folder, {}).get(checksum)

    def drop(self, folder: str, checksum: str) -> None:
        """Forget a module and the tags that lead to it."""
        entries = self.modules.get(folder, {})
        entries.pop(checksum, None)
        if not entries:
            self.modules.pop(folder, None)
        self.tags = {
            url: tag for url, tag in self.tags.items() if (tag.folder, tag.checksum) != (folder, checksum)
        }


class Index:
    """The table in `directory`."""

    def __init__(self, directory: Path, *, lock_within_s: float = 2.0) -> None:
        self._directory, self._lock_within_s = directory, lock_within_s

    def read(self) -> Contents:
        """Return the table; an empty one where there is none that can be read."""
        path = self._directory / INDEX
        try:
            with path.open("rb") as file:
                contents = msgspec.json.decode(file.read(_READ_LIMIT_BYTES), type=Contents)
        except FileNotFoundError:
            return Contents()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warn(f"{path} is not used: {error}")
            return Contents()
        return contents if contents.format == _FORMAT else Contents()

    def update(self, change: Callable[[Contents], T]) -> T:
        """Return what `change` returns, which may alter the table it gets.

        What cannot be written is lost with a warning.
        """
        with self._locked() as is_ours:
            contents = self.read()
            outcome = change(contents)
            if is_ours:
                self._write(contents)
            return outcome

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        try:
            descriptor = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            _log.warn(f"the index of Wasm modules cannot be changed: {error}")
            yield False
            return
        try:
            yield self._lock(descriptor)
        finally:
            os.close(descriptor)  # and with it the lock

    def _lock(self, descriptor: int) -> bool:
        end_s = time.monotonic() + self._lock_within_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    _log.warn("the index of Wasm modules is locked by another process: not changed")
                    return False
                time.sleep(_LOCK_TRIES_EVERY_S)
            else:
                return True

    def _write(self, contents: Contents) -> None:
        new = self._directory / f".{INDEX}.{os.getpid()}.new"
        try:
            new.write_bytes(msgspec.json.encode(contents))
            new.chmod(0o644)
            new.replace(self._directory / INDEX)
        except OSError as error:
            _log.warn(f"the index of Wasm modules cannot be written: {error}")
            new.unlink(missing_ok=True)
