"""Where lines go: stdout, stderr or files; each line is one write."""

import fcntl
import os
import sys
import threading
from typing import Final

_ATOMIC_BYTES: Final = 4096
"""A pipe takes writes up to this size in one piece (POSIX PIPE_BUF on Linux); longer ones need a lock."""


class Sink:
    """Writes whole lines to file descriptors that all processes of the agent share.

    Lines above PIPE_BUF are written under a record lock on an anonymous file, which excludes other
    processes, and a mutex, which excludes other threads (record locks belong to a process).
    """

    def __init__(self, targets: tuple[str, ...] = ("stdout",)) -> None:
        """Open `targets`: "stdout", "stderr", or paths that are created and appended to.

        Raises:
            OSError: a file cannot be opened.
        """
        self._descriptors = tuple(_open(target) for target in targets)
        self._mutex = threading.Lock()
        self._lock_file = os.memfd_create("log-lock", os.MFD_CLOEXEC)
        os.register_at_fork(after_in_child=self._renew_mutex)

    def write(self, line: str) -> None:
        """Write one line, its line feed added; a failure goes to stderr once and is swallowed."""
        data = line.encode(errors="backslashreplace") + b"\n"
        for descriptor in self._descriptors:
            try:
                if len(data) <= _ATOMIC_BYTES:
                    _write_all(descriptor, data)
                else:
                    self._write_locked(descriptor, data)
            except OSError as error:
                _complain(error)

    def _write_locked(self, descriptor: int, data: bytes) -> None:
        with self._mutex:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX)
            try:
                _write_all(descriptor, data)
            finally:
                fcntl.lockf(self._lock_file, fcntl.LOCK_UN)

    def _renew_mutex(self) -> None:
        self._mutex = threading.Lock()

    def descriptors(self) -> tuple[int, ...]:
        """Return what a child process must not close."""
        return (*self._descriptors, self._lock_file)


def _open(target: str) -> int:
    if target == "stdout":
        return 1
    if target == "stderr":
        return 2
    return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _complain(error: OSError) -> None:
    try:
        sys.stderr.write(f"log write failed: {error}\n")
    except OSError:
        return
