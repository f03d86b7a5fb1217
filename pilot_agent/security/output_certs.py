"""OUTPUT_CERTS: key, chain and roots in a directory for others to read, changed together.

The files of one set stand in a directory of their own, `..data` links to it, and the stable names link
through that, as in a volume of Kubernetes. Renaming the link changes all of them at once: who opens
`..data` once and reads within it sees one set. Who opens the three stable names one after another may
see two sets for an instant.

Source: the reference's output of certificates, for names and modes; there each file is replaced alone.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

KEY, CHAIN, ROOTS = "key.pem", "cert-chain.pem", "root-cert.pem"
LINK: Final = "..data"
_NEW_LINK: Final = "..data_new"
_SET_PREFIX: Final = "..set-"
_SETS_KEPT: Final = 2
"""The newest and the one before, which a reader may have just opened."""


class OutputCerts:
    """Writes sets into one directory, which must exist. One process at a time."""

    def __init__(self, directory: str, *, shared: bool) -> None:
        """Write into `directory`; `shared` (in Kubernetes) lets every user read, the key too."""
        self._directory = Path(directory)
        self._mode = 0o644 if shared else 0o600

    def write(self, files: Mapping[str, bytes]) -> bool:
        """Put `files` (stable name → content) in place; a name that is missing keeps what it had.

        Returns False if everything is there already.

        Raises:
            OSError: it cannot be written; what was there before is still there, whole.
        """
        merged = self._current() | dict(files)
        if self._is_in_place(merged):
            return False
        self._remove_half_made()
        made = self._make_set(merged)
        self._link(made.name)
        for name in merged:
            self._link_stable_name(name)
        self._remove_old(made.name)
        return True

    def _current(self) -> dict[str, bytes]:
        found = {}
        for name in (KEY, CHAIN, ROOTS):
            with contextlib.suppress(OSError):
                found[name] = (self._directory / LINK / name).read_bytes()
        return found

    def _is_in_place(self, files: Mapping[str, bytes]) -> bool:
        try:
            return all(
                str((self._directory / name).readlink()) == f"{LINK}/{name}"
                and (self._directory / name).read_bytes() == content
                and (self._directory / name).stat().st_mode & 0o777 == self._mode
                for name, content in files.items()
            )
        except OSError:
            return False

    def _make_set(self, files: Mapping[str, bytes]) -> Path:
        made = self._directory / f"{_SET_PREFIX}{time.time_ns():020d}-{os.urandom(3).hex()}"
        made.mkdir(mode=0o700)
        try:
            for name, content in files.items():
                _write_new(made / name, content, self._mode)
            made.chmod(0o755)
            _sync(made)
        except OSError:
            _remove_set(made)
            raise
        return made

    def _link(self, target: str) -> None:
        new = self._directory / _NEW_LINK
        new.symlink_to(target)
        new.rename(self._directory / LINK)
        _sync(self._directory)

    def _link_stable_name(self, name: str) -> None:
        """Let the stable name lead through `..data`; a plain file of the reference's is replaced."""
        place, target = self._directory / name, f"{LINK}/{name}"
        with contextlib.suppress(OSError):
            if str(place.readlink()) == target:
                return
        new = self._directory / f"{_NEW_LINK}-{name}"
        new.symlink_to(target)
        new.rename(place)

    def _sets(self) -> list[Path]:
        """Return all sets, the newest first: their names have the time in them."""
        found = (each for each in self._directory.iterdir() if each.name.startswith(_SET_PREFIX))
        return sorted(found, reverse=True)

    def _remove_old(self, current: str) -> None:
        others = [each for each in self._sets() if each.name != current]
        for old in others[_SETS_KEPT - 1 :]:
            _remove_set(old)

    def _remove_half_made(self) -> None:
        """Remove links that a killed predecessor made and did not put in place."""
        for name in (_NEW_LINK, *(f"{_NEW_LINK}-{name}" for name in (KEY, CHAIN, ROOTS))):
            with contextlib.suppress(FileNotFoundError):
                (self._directory / name).unlink()


def _remove_set(directory: Path) -> None:
    """Remove a set; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Have the directory's names survive a power failure: on a VM they authenticate the next boot."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
