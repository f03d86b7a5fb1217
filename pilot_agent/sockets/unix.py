"""Binds a server's socket to `path.PID` and renames that onto `path`.

A client that connects while one server follows another finds either the old one or the new one, never
nothing.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from pilot_agent.log import get_logger

PATH_LIMIT_BYTES: Final = 107
"""Length of a Unix socket's name on Linux (`sun_path`), without its closing NUL."""

_BACKLOG: Final = 128

_log = get_logger()


class SocketError(OSError):
    """The socket cannot be bound; the text names the path and the reason."""


class BoundSocket(msgspec.Struct, frozen=True, kw_only=True):
    """The socket file that one server owns; whoever bound it unlinks it."""

    path: str
    device: int
    inode: int

    def unlink(self) -> bool:
        """Remove the file unless somebody else's stands there by now; return whether it was removed."""
        try:
            found = Path(self.path).lstat()
            if (found.st_dev, found.st_ino) != (self.device, self.inode):
                return False
            Path(self.path).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:  # a file system that has become read-only: the end goes on
            _log.warn(f"socket {self.path} is left behind: {error.strerror}")
            return False
        return True


def listen_unix(path: str, *, mode: int = 0o666) -> tuple[socket.socket, BoundSocket]:
    """Return a socket that listens on `path` with file mode `mode`, owned by the caller.

    The directory is made with mode 0750 if it is missing; what killed predecessors left under
    `path.PID` is removed; a file at `path` is replaced.

    Raises:
        SocketError: the name is too long, or the socket cannot be bound or put in place.
    """
    place, own = Path(path), Path(f"{path}.{os.getpid()}")
    _check_length(own, path)
    _make_directory(place.parent)
    _remove_stale(place)
    listener = _listening(own)
    try:
        own.chmod(mode)
        made = own.stat()
        own.rename(place)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            own.unlink()
        raise SocketError(f"cannot put socket {path} in place: {error.strerror}") from error
    return listener, BoundSocket(path=path, device=made.st_dev, inode=made.st_ino)


def heirlooms(listener: socket.socket, bound: BoundSocket) -> tuple[int, int]:
    """Return the descriptors from which `adopt_unix` makes the same listener in a successor's process.

    They are the listener's own and one of its file, to be closed by the caller; a client that connects
    while nobody serves waits in the listener's queue instead of being refused.

    Raises:
        OSError: the file is gone.
    """
    return listener.fileno(), os.open(bound.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)


def adopt_unix(path: str, descriptors: tuple[int, ...]) -> tuple[socket.socket, BoundSocket] | None:
    """Return the listener that a predecessor handed down; None if there is none, or its file is gone.

    Owns the descriptors.
    """
    if len(descriptors) != 2:  # what `heirlooms` returns
        return None
    listener, file = socket.socket(fileno=descriptors[0]), descriptors[1]
    try:
        made, found = os.fstat(file), Path(path).lstat()
    except FileNotFoundError:
        listener.close()
        return None
    finally:
        os.close(file)
    if (made.st_dev, made.st_ino) != (found.st_dev, found.st_ino):
        listener.close()
        return None
    return listener, BoundSocket(path=path, device=made.st_dev, inode=made.st_ino)


def _check_length(own: Path, path: str) -> None:
    size = len(os.fsencode(own))
    if size > PATH_LIMIT_BYTES:
        raise SocketError(
            f"socket path {path} is too long: {size} bytes with the process id's suffix, "
            f"at most {PATH_LIMIT_BYTES} are possible"
        )


def _make_directory(directory: Path) -> None:
    """Make the directory and its parents, all 0750 as the reference does; a failure shows at the bind."""
    try:
        for missing in reversed([each for each in (directory, *directory.parents) if not each.exists()]):
            missing.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        _log.warn(f"failed to create directory for socket: {error}")


def _remove_stale(place: Path) -> None:
    """Remove sockets named `place.<digits>`: their servers died between bind and rename."""
    with contextlib.suppress(OSError):
        for entry in list(place.parent.iterdir()):
            prefix, _, suffix = entry.name.rpartition(".")
            if prefix == place.name and suffix.isdecimal() and entry.is_socket():
                entry.unlink()


def _listening(own: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(own))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketError(f"cannot listen on {own}: {_why(error, own.parent)}") from error
    return listener


def _why(error: OSError, directory: Path) -> str:
    """Return the reason, with the directory where it is the directory's."""
    if not directory.is_dir():
        return f"no such directory: {directory}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"directory {directory} is not writable"
    return error.strerror or str(error)
