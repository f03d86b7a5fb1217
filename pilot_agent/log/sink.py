"""Where lines go: stdout, stderr or files, which all processes of the agent share."""

import fcntl
import os
import select
import threading
import time
from typing import Final

from pilot_agent.log import ring

_STUCK_S: Final = 1.0
"""How long a lock may be held while there is room to write: longer, and its holder was stopped or hangs."""
_LOCKLESS_S: Final = 10.0
"""How long nobody asks for the lock after its holder was found stuck; the watchdog ends it meanwhile."""
_PAUSE_S: Final = 0.001


class Sink:
    """Writes whole lines: what several processes write at once never mixes.

    A pipe takes 4096 bytes in one piece, and no more (PIPE_BUF). So every line is written under a
    record lock on an anonymous file, which excludes other processes, and a mutex, which excludes other
    threads (record locks belong to a process). A kill lets go of the lock. A holder that is stopped
    (SIGSTOP) cannot hold up the others: they go on without the lock after a second.
    """

    def __init__(self, targets: tuple[str, ...] = ("stdout",)) -> None:
        """Open `targets`: "stdout", "stderr", or paths that are created and appended to.

        Raises:
            OSError: a file cannot be opened; nothing stays open then.
        """
        self._files: list[int] = []
        try:
            self._descriptors = tuple(map(self._open, targets))
            self._lock_file = os.memfd_create("log-lock", os.MFD_CLOEXEC)
        except OSError:
            self._close_files()
            raise
        self._mutex = threading.Lock()
        self._lockless_until = 0.0
        self._complained = False

    def write(self, line: str) -> None:
        """Write one line, its line feed added; failures are told on stderr, once until it works again."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._mutex:
            for at, descriptor in enumerate(self._descriptors):
                try:
                    self._write_locked(descriptor, data, also_kept=at == 0)
                    self._complained = False
                except OSError as error:
                    self._complain(error)

    def descriptors(self) -> tuple[int, ...]:
        """Return what a child process must not close: where lines go, then the lock."""
        return (*self._descriptors, self._lock_file)

    def renew_mutex(self) -> None:
        """Forget, in a forked child, what a thread of the parent may hold."""
        self._mutex = threading.Lock()

    def close(self) -> None:
        """Close the files that were opened here; stdout and stderr stay."""
        self._close_files()
        os.close(self._lock_file)

    def _open(self, target: str) -> int:
        if target == "stdout":
            return 1
        if target == "stderr":
            return 2
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._files.append(descriptor)
        return descriptor

    def _close_files(self) -> None:
        for descriptor in self._files:
            os.close(descriptor)

    def recent(self) -> bytes:
        """Return the last lines, of all processes."""
        return ring.recent(self._lock_file)

    def _write_locked(self, descriptor: int, data: bytes, *, also_kept: bool) -> None:
        locked = self._lock(descriptor)
        try:
            if also_kept:
                ring.append(self._lock_file, data)
            _write_all(descriptor, data)
        finally:
            if locked:
                fcntl.lockf(self._lock_file, fcntl.LOCK_UN)

    def _lock(self, descriptor: int) -> bool:
        """Take the lock, and say so; a holder that does not use the room there is counts as stuck."""
        if time.monotonic() < self._lockless_until:
            return False
        room_since: float | None = None
        while not _try_lock(self._lock_file):
            if not _has_room(descriptor):
                room_since = None  # everyone waits for the reader of the log
            elif room_since is None:
                room_since = time.monotonic()
            elif time.monotonic() - room_since > _STUCK_S:
                self._lockless_until = time.monotonic() + _LOCKLESS_S
                return False
            time.sleep(_PAUSE_S)
        return True

    def _complain(self, error: OSError) -> None:
        if self._complained:
            return
        self._complained = True
        try:
            os.write(2, f"log write failed: {error}\n".encode())
        except OSError:
            return


def _try_lock(lock_file: int) -> bool:
    try:
        fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_room(descriptor: int, timeout_s: float | None = 0) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody who shares our stdout has made it non-blocking
            _has_room(descriptor, None)
