"""Which Envoys can take over from each other: those whose `--hot-restart-version` is the same.

An Envoy that finds shared memory of another version ends at once, and has shut its parent's admin port by
then. So one that was put in the running one's place is asked before it is started.
"""

import os
from typing import Final

_ASK_S: Final = 10.0
Identity = tuple[int, int, int]


def identity(program: str) -> Identity | None:
    """Return what tells a file from the one that takes its place, None if there is none."""
    try:
        found = os.stat(program)  # noqa: PTH116  # a path, as all of them here
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def mismatch(program: str, running_pid: int) -> str:
    """Return why `program` cannot take over from a running Envoy; empty if it can, or nobody knows."""
    running = f"/proc/{running_pid}/exe"
    if identity(program) == identity(running):
        return ""
    new, old = _version(program), _version(running)
    if not new or not old or new == old:
        return ""
    return f"{program} has hot restart version {new}, the running Envoy {old}: no takeover between them"


def _version(program: str) -> str:
    """Return what it says, empty if it says nothing."""
    import subprocess  # noqa: PLC0415  # seldom; the first Envoy starts without it

    try:
        done = subprocess.run(
            [program, "--hot-restart-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # where Envoy writes it
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    said = done.stdout.decode("utf-8", "replace").split()
    return said[-1] if done.returncode == 0 and said else ""
