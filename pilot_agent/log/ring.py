"""The last lines of the log, in memory that all processes of the agent share.

Whoever has the status port can show them, though the log itself went to a pipe. The file is the one on
which the log's lock is held, and is written under it: eight bytes that count all that was ever written,
then a ring. A line that is torn by a writer without the lock is a line that nobody can read, no more.
"""

import os
from typing import Final

SIZE_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 8
_LINE_LIMIT_BYTES: Final = 4096


def append(descriptor: int, line: bytes) -> None:
    """Write one line, cut where it is long. To be called under the lock."""
    if len(line) > _LINE_LIMIT_BYTES:
        line = line[: _LINE_LIMIT_BYTES - 5] + b" ...\n"
    written = int.from_bytes(os.pread(descriptor, _HEAD_BYTES, 0), "little")
    at = written % SIZE_BYTES
    fits = min(len(line), SIZE_BYTES - at)
    os.pwrite(descriptor, line[:fits], _HEAD_BYTES + at)
    if fits < len(line):
        os.pwrite(descriptor, line[fits:], _HEAD_BYTES)
    os.pwrite(descriptor, (written + len(line)).to_bytes(_HEAD_BYTES, "little"), 0)


def recent(descriptor: int) -> bytes:
    """Return the lines that are still there, oldest first."""
    written = int.from_bytes(os.pread(descriptor, _HEAD_BYTES, 0), "little")
    ring = os.pread(descriptor, SIZE_BYTES, _HEAD_BYTES)
    if written <= SIZE_BYTES:
        return ring[:written]
    at = written % SIZE_BYTES
    return (ring[at:] + ring[:at]).partition(b"\n")[2]
