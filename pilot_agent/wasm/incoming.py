"""Folders in which fetches work; what a fetch that was killed left behind is found by its lock."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

INCOMING: Final = ".wasm-incoming-"
_LOCK: Final = "lock"
_YOUNG_S: Final = 60.0
"""A folder without a lock may have been made just now."""


@contextmanager
def incoming_folder(root: Path) -> Iterator[Path]:
    """Make a folder in `root` that is gone afterwards, whatever happens. Raises: OSError."""
    with tempfile.TemporaryDirectory(prefix=INCOMING, dir=root) as name:
        folder = Path(name)
        with (folder / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


def sweep(root: Path) -> None:
    """Remove the folders of fetches that are no more, of this agent or another."""
    for folder in root.glob(f"{INCOMING}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _age_s(folder) > _YOUNG_S
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        # Young and free: made, and not locked yet.
        return _age_s(folder) > _YOUNG_S or (folder / "module").exists()
    finally:
        os.close(lock)


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0
