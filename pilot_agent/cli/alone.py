"""One agent a place: a second one would rename its sockets over the first one's and clear away its files.

The lock is the kernel's, on the directory itself, so that it is never stale: it goes with the supervisor.
The reference has none; there the second agent takes the first one's sockets and then ends at a taken port.
"""

import errno
import fcntl
import os
from pathlib import Path

from pilot_agent.cli.errors import CliError


def be_alone_in(directory: Path) -> int:
    """Lock `directory`, made if it is missing; return the descriptor that holds the lock, -1 without one.

    Where it cannot be made or opened, or its file system knows no locks, there is none: whoever writes
    there first tells what is wrong with the place.

    Raises:
        CliError: another agent holds it.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise CliError(
                f"another pilot-agent runs with {directory} already; this one has changed nothing"
            ) from error
        return -1
    return descriptor
