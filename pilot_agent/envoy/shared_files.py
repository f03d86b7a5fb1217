"""What an Envoy with hot restart leaves behind: shared memory and domain sockets, named after its base id.

Envoy removes none of them, not even after an orderly end. For base id 73211 they are
`/dev/shm/envoy_shared_memory_732110` and, with the socket path prefix PATH,
`PATH_{parent,child,udp_parent,udp_child}_73211{0,1,2}` (the last digit is the epoch modulo 3).
The base ids that were ever used stand in a record of our own, so that a later agent in the same
directory can remove what an earlier one left; files of base ids not recorded are nobody's business here.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pilot_agent.envoy import handover
from pilot_agent.envoy.bootstrap_file import Owner, make_directory, write

if TYPE_CHECKING:
    from pilot_agent.envoy import steering

SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # Envoy's shm_open, not a place for temporary files of ours
_KINDS: Final = ("parent", "child", "udp_parent", "udp_child")
_PARALLEL_EPOCHS: Final = 3
_LARGEST_BASE_ID: Final = 200_000_000
"""Envoy multiplies it by ten into 32 bits with a sign, and names its sockets 18446744071… beyond them."""

_SOCKET_PATH_LIMIT_BYTES: Final = 107
_ENVOY_FILE_BYTES: Final = 4096


class SharedFiles:
    """The hot-restart files of all base ids of one configuration directory."""

    def __init__(self, directory: str, *, owner: Owner = Owner(), shared_memory: str = SHARED_MEMORY) -> None:  # noqa: B008  # frozen
        self._directory, self._owner, self._memory = Path(directory), owner, Path(shared_memory)
        self._record = self._directory / "hr-base-ids"

    @property
    def socket_path(self) -> str:
        """Return the prefix for `--socket-path`."""
        return str(self._directory / "hr")

    def draw_base_id(self) -> int:
        """Return a random base id that nobody on this machine uses, and record it.

        Raises:
            OSError: the record cannot be written.
        """
        while True:
            base_id = 1 + int.from_bytes(os.urandom(8)) % _LARGEST_BASE_ID
            if not self._memory_file(base_id).exists():
                self._save((*self._recorded(), base_id))
                return base_id

    def heal(self, base_id: int) -> str:
        """Make a base id fit for a hot restart again after an epoch of it failed; return why it is not."""
        return handover.heal(self._memory_file(base_id))

    def ask_to_drain(self, base_id: int, epoch: int) -> str:
        """Have an Envoy drain that has no admin port any more; return why it was not told."""
        return handover.ask_to_drain(Path(f"{self.socket_path}_parent_{base_id}{epoch % _PARALLEL_EPOCHS}"))

    def borrow_listeners(
        self, base_id: int, epoch: int, urls: Sequence[str], workers: int
    ) -> "list[steering.Listener]":
        """Return the listen sockets of an Envoy, asked for as its child would.

        Raises:
            OSError: it does not answer.
        """
        from pilot_agent.envoy import steering  # noqa: PLC0415  # rarely needed

        parent = Path(f"{self.socket_path}_parent_{base_id}{epoch % _PARALLEL_EPOCHS}")
        child = Path(f"{self.socket_path}_child_{base_id}{(epoch + 1) % _PARALLEL_EPOCHS}")
        return steering.borrow(parent, child, urls, workers)

    def remove(self, base_id: int) -> None:
        """Remove the files of a base id whose Envoys have all ended, and its entry in the record."""
        for path in (self._memory_file(base_id), *self._sockets(base_id)):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self._save(tuple(known for known in self._recorded() if known != base_id))

    def remove_dead(self, *, keep: frozenset[int] = frozenset()) -> tuple[int, ...]:
        """Remove what earlier agents left: recorded base ids that no process listens for; return them."""
        dead = tuple(each for each in self._recorded() if each not in keep and not self._is_served(each))
        for base_id in dead:
            self.remove(base_id)
        return dead

    def obstacle(self) -> str:
        """Return why hot restart cannot work here, empty if it can. Tried by writing, not by asking."""
        try:
            make_directory(self._directory, self._owner)
        except OSError as error:
            return f"{self._directory} cannot be made: {error.strerror}"
        name = self._sockets(_LARGEST_BASE_ID)[-1]
        if len(os.fsencode(name)) > _SOCKET_PATH_LIMIT_BYTES:
            return f"socket path {name} is longer than {_SOCKET_PATH_LIMIT_BYTES} bytes"
        return _try_to_write(self._memory) or _try_to_write(self._directory) or self._foreign_directory()

    def _foreign_directory(self) -> str:
        """Return why Envoy's user, if it is another than ours, cannot bind its sockets here."""
        if self._owner.uid < 0:
            return ""
        found = self._directory.stat()
        bits = (
            0o300 if found.st_uid == self._owner.uid else 0o030 if found.st_gid == self._owner.gid else 0o003
        )
        if found.st_mode & bits == bits:
            return ""
        return f"{self._directory} is not writable for uid {self._owner.uid}"

    def _memory_file(self, base_id: int) -> Path:
        return self._memory / f"envoy_shared_memory_{base_id}0"

    def _sockets(self, base_id: int) -> list[Path]:
        return [
            Path(f"{self.socket_path}_{kind}_{base_id}{number}")
            for kind in _KINDS
            for number in range(_PARALLEL_EPOCHS)
        ]

    def _is_served(self, base_id: int) -> bool:
        return any(_has_reader(path) for path in self._sockets(base_id))

    def _recorded(self) -> tuple[int, ...]:
        try:
            words = self._record.read_text().split()
        except (OSError, UnicodeDecodeError):
            return ()
        return tuple(int(word) for word in words if word.isdecimal() and 0 < int(word) <= _LARGEST_BASE_ID)

    def _save(self, base_ids: tuple[int, ...]) -> None:
        if base_ids:
            write(str(self._record), "".join(f"{each}\n" for each in base_ids).encode(), Owner())
        else:
            self._record.unlink(missing_ok=True)


def _has_reader(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def _try_to_write(directory: Path) -> str:
    probe = directory / f".pilot-agent-{os.getpid()}"
    try:
        probe.write_bytes(bytes(_ENVOY_FILE_BYTES))
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        return f"{directory} is not writable: {error.strerror}"
    return ""
