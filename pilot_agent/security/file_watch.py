"""Says when something happens on the way to a file: inotify on every directory that the path leads through.

Directories are watched and not files, since a watch on a file stays with the inode that was replaced.
Symbolic links are followed one by one, so a change of any of them, or of a parent, counts, and so does
a directory that comes later. A watch can be lost all the same (another host's file system, no more
watches to be had): whoever uses this looks at the files now and then, too.
"""

import ctypes
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Final

_EVENT: Final = struct.Struct("iIII")
_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED, _ONLYDIR = 0x2000, 0x4000, 0x8000, 0x1000000
_OF_NAMES: Final = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_OF_ITSELF: Final = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _OVERFLOW | _IGNORED
_MASK: Final = _OF_NAMES | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_LONGEST_WAY: Final = 40  # links; the kernel's own limit
_libc: Final = ctypes.CDLL(None, use_errno=True)

Places = dict[str, set[str]]
"""Directory → names in it that matter."""


def places(path: str) -> Places:
    """Return every directory in which a name is looked up on the way to `path`, as far as it exists."""
    found: Places = {}
    here, ahead, links = "/", os.path.abspath(path).split("/"), 0  # noqa: PTH100  # ".." as the reference
    while ahead:
        name = ahead.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)  # noqa: PTH120
            continue
        found.setdefault(here, set()).add(name)
        there = f"{here.rstrip('/')}/{name}"
        try:
            mode = os.lstat(there).st_mode
            target = os.readlink(there) if stat.S_ISLNK(mode) else ""  # noqa: PTH115
        except OSError:
            return found
        if target:
            links += 1
            if links > _LONGEST_WAY:
                return found
            here = "/" if target.startswith("/") else here
            ahead = target.split("/") + ahead
        elif stat.S_ISDIR(mode):
            here = there
        else:
            return found
    return found


class FileWatch:
    """Calls `on_change` from a thread of its own; once, until `follow` is called again.

    So a storm of changes is one call, and none is lost: `follow` comes before the look at the files.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._descriptor = -1
        self._directories: dict[str, int] = {}  # path → watch
        self._names: dict[int, set[str]] = {}  # watch → names that matter
        self._armed = False

    def follow(self, paths: Iterable[str]) -> None:
        """Watch the ways to exactly these paths, as they are now.

        Raises:
            OSError: the kernel gives no watch; those that could be had are there.
        """
        wanted: Places = {}
        for path in paths:
            for directory, names in places(path).items():
                wanted.setdefault(directory, set()).update(names)
        with self._lock:
            self._armed = True
            if self._descriptor < 0 and wanted:
                self._begin()
            if self._descriptor >= 0:
                self._set(wanted)

    def _begin(self) -> None:
        self._descriptor = _checked(_libc.inotify_init1(os.O_CLOEXEC), "inotify_init1")
        threading.Thread(target=self._read, name="file-watch", daemon=True).start()

    def _set(self, wanted: Places) -> None:
        """Bring the watches in line; one on a directory that was replaced is made anew by its path."""
        before, self._directories, self._names = self._directories, {}, {}
        problem: OSError | None = None
        for directory, names in wanted.items():
            try:
                watch = _checked(
                    _libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _MASK), directory
                )
            except FileNotFoundError:
                continue  # gone since: its parent's watch tells when it is back
            except OSError as error:
                problem = error
                continue
            self._directories[directory] = watch
            self._names.setdefault(watch, set()).update(names)
        for watch in set(before.values()) - set(self._directories.values()):
            _libc.inotify_rm_watch(self._descriptor, watch)  # fails where the directory itself is gone
        if problem is not None:
            raise problem

    def _read(self) -> None:
        while True:
            data = os.read(self._descriptor, 1 << 16)
            if self._matters(data):
                self._on_change()

    def _matters(self, data: bytes) -> bool:
        with self._lock:
            if not self._armed or not any(self._is_ours(*event) for event in _events(data)):
                return False
            self._armed = False
            return True

    def _is_ours(self, watch: int, mask: int, name: str) -> bool:
        if mask & _OVERFLOW:
            return True
        names = self._names.get(watch)
        return names is not None and (bool(mask & _OF_ITSELF) or name in names)


def _events(data: bytes) -> Iterable[tuple[int, int, str]]:
    at = 0
    while at + _EVENT.size <= len(data):
        watch, mask, _cookie, size = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield watch, mask, os.fsdecode(data[at : at + size].rstrip(b"\0"))
        at += size


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return int(result)
