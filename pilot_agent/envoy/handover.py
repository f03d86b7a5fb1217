"""The two things that are asked of Envoy's own hot-restart interface, past its admin port.

- An epoch that fails to start leaves a flag in the shared memory of its base id, and no hot restart of that
  base id succeeds any more. Where the memory is laid out as we know it, the flag is taken back.
- Such an epoch has also shut its parent's admin port down. The parent still listens on its domain socket
  for what a child says, and so can be told to drain.

Source: tried with Envoy 1.40; its hot restart version is 11.
"""

import os
import socket
import struct
from pathlib import Path
from typing import Final

_LAYOUT: Final = struct.Struct("=QQ80sQ")  # size, version, two locks, flags
_VERSION: Final = 11
_INITIALIZING: Final = 1
_DRAIN: Final = b"\x0a\x02\x22\x00"  # HotRestartMessage{request{drain_listeners{}}}
_LENGTH: Final = struct.Struct(">Q")


def heal(memory: Path) -> str:
    """Take the flag of a failed epoch back; return why that is not possible, empty if the memory is good.

    To be called only while no epoch of this base id initializes.
    """
    try:
        with memory.open("r+b", buffering=0) as file:
            data = file.read(_LAYOUT.size + 1)
            if len(data) != _LAYOUT.size:
                return f"{memory} has another layout than the one that is known"
            size, version, _, flags = _LAYOUT.unpack(data)
            if (size, version) != (_LAYOUT.size, _VERSION) or flags & ~_INITIALIZING:
                return f"{memory} is of another version: size {size}, version {version}, flags {flags}"
            if flags:
                os.pwrite(file.fileno(), bytes(8), _LAYOUT.size - 8)
    except OSError as error:
        return f"{memory}: {error.strerror}"
    return ""


def ask_to_drain(parent: Path) -> str:
    """Have the Envoy that listens on this socket drain all listeners; return why it was not told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as child:
        try:
            child.sendto(_LENGTH.pack(len(_DRAIN)) + _DRAIN, socket.MSG_DONTWAIT, str(parent))
        except OSError as error:
            return f"{parent}: {error.strerror}"
    return ""
