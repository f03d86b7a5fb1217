"""Two Envoys that share no base id listen side by side: how the old one leaves without a lost connection.

See `steering` for how. Where the old one does not lend its sockets, it is drained without: a connection that
waits in its queue at that moment may be reset.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from pilot_agent.envoy import steering
from pilot_agent.envoy.admin import Admin, AdminError
from pilot_agent.envoy.model import Generation
from pilot_agent.envoy.shared_files import SharedFiles
from pilot_agent.log import get_logger

_ASK_S: Final = 2.0
_HANDSHAKE_S: Final = 1.0
"""A handshake that began at an old socket ends there: so long it goes on accepting."""

_CLOSED_WITHIN_S: Final = 600.0
_LOOK_S: Final = 0.05

_log = get_logger()


class Overlap:
    """The old Envoy's listen sockets while connections go to the new one. Its calls block."""

    def __init__(self, lent: Sequence[steering.Listener], old_pid: int, new_workers: int) -> None:
        self._lent, self._old_pid, self._new_workers = lent, old_pid, new_workers

    @classmethod
    def begin(cls, files: SharedFiles, admin: Admin, old: Generation, new: Generation) -> Self:
        """Have new connections go to `new`, whose admin port this is, and wait for those on their way."""
        old_workers, new_workers = steering.worker_count(old.pid), steering.worker_count(new.pid)
        lent: list[steering.Listener] = []
        try:
            if old.base_id and old_workers and new_workers:
                urls = admin.listening(timeout_s=_ASK_S)
                lent = files.borrow_listeners(old.base_id, old.epoch, urls, old_workers)
                for listener in lent:
                    steering.steer(listener, steering.Span(len(listener.sockets), new_workers))
        except (AdminError, OSError) as error:
            _log.warn(
                f"Envoy epoch {old.epoch} does not lend its sockets, a connection may be reset: {error}"
            )
        if lent:
            _log.info(f"new connections go to the new Envoy: {', '.join(each.url for each in lent)}")
            time.sleep(_HANDSHAKE_S)
        return cls(lent, old.pid, new_workers)

    def end(self) -> None:
        """Wait until the old Envoy has closed its sockets, then close ours."""
        until_s = time.monotonic() + _CLOSED_WITHIN_S
        inodes = {os.fstat(each.fileno()).st_ino for listener in self._lent for each in listener.sockets}
        while inodes & _open_sockets(self._old_pid) and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
        for listener in self._lent:
            steering.let_go(listener, self._new_workers)


def _open_sockets(pid: int) -> set[int]:
    """Return the inodes of a process's sockets; none of one that has ended."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                name = str(descriptor.readlink())
                if name.startswith("socket:["):
                    found.add(int(name[len("socket:[") : -1]))
    return found
