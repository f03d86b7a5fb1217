"""Moves a port's new connections from one Envoy to another that listens beside it, and loses none.

Both Envoys listen with SO_REUSEPORT, each worker with a socket of its own. When one of them closes its
sockets, the kernel resets what waits in their queues. So it lends them to us first (its hot-restart socket
gives them to who asks as its child would), a program on the group has the kernel choose among the new ones
alone, and when the old Envoy has accepted what was on its way, it may close them; ours go last, in an order
that leaves no moment in which an old one could be chosen.

Source: the kernel's sock_reuseport.c (a socket that leaves is replaced by the last one; a choice beyond the
end falls back to the hash) and Envoy 1.40's hot_restart.proto; both tried.
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from pilot_agent.wire import bytes_field, message, text_field, varint_field

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_LOAD, _MODULO, _ADD, _RETURN = 0x20, 0x94, 0x04, 0x16
_RANDOM: Final = 0x1_0000_0000 - 0x1000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LENGTH: Final = struct.Struct(">Q")
_LARGEST_ANSWER_BYTES: Final = 4096
_ANSWER_S: Final = 1.0


class Listener(msgspec.Struct, frozen=True):
    """One address, and the sockets that the old Envoy's workers have for it."""

    url: str
    sockets: tuple[socket.socket, ...]


class Span(msgspec.Struct, frozen=True):
    """Places of a group that are chosen among: `count` of them from `first` on."""

    first: int
    count: int


def worker_count(pid: int) -> int:
    """Return how many workers an Envoy has: each has a socket of its own for each address."""
    names = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/comm"))
    with contextlib.suppress(OSError):
        return sum(name.startswith("wrk:worker_") for name in names)
    return 0


def borrow(parent: Path, child: Path, urls: Sequence[str], workers: int) -> list[Listener]:
    """Return the listen sockets of the Envoy behind `parent`, whose child would listen at `child`.

    Raises:
        OSError: it does not answer.
    """
    child.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as us:
        us.settimeout(_ANSWER_S)
        us.bind(str(child))
        try:
            owner = parent.stat()
            os.chown(child, owner.st_uid, owner.st_gid)  # it answers as another user, it may be
            found = (Listener(url, _lent(us, str(parent), url, workers)) for url in urls)
            return [each for each in found if each.sockets]
        finally:
            child.unlink(missing_ok=True)


def steer(listener: Listener, span: Span) -> None:
    """Have new connections go to these places of the listener's group."""
    steps = ((_LOAD, _RANDOM), (_MODULO, span.count), (_ADD, span.first), (_RETURN, 0))
    code = b"".join(_INSTRUCTION.pack(kind, 0, 0, value) for kind, value in steps)
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(steps), ctypes.addressof(kept))
    listener.sockets[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def let_go(listener: Listener, new: int) -> None:
    """Close our ends of the old sockets, which are Envoy's no more; `new`: its successor's workers."""
    left = list(listener.sockets)
    for span in closing_spans(len(left), new):
        with contextlib.suppress(OSError):
            steer(Listener(listener.url, tuple(left)), span)
        left.pop(0).close()


def closing_spans(old: int, new: int) -> list[Span]:
    """Return among which places to choose while each of the first `old` places is given up, in order.

    A span is of new sockets alone before and after the step; behind the last step it may be beyond the end,
    where the hash chooses among all, which are the new ones.
    """
    places = [False] * old + [True] * new
    spans = []
    for _ in range(old):
        after = [*places]
        moved = after.pop()
        at = places.index(False)
        if at < len(after):
            after[at] = moved
        fit = [place for place in range(len(after)) if places[place] and after[place]]
        if False not in after and places[-1]:
            spans.append(Span(len(places) - 1, 1))
        elif fit:
            spans.append(_longest_run(fit))
        else:  # one new socket beside several old ones: no place fits both
            spans.append(Span(places.index(True), 1))
        places = after
    return spans


def _longest_run(places: Sequence[int]) -> Span:
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    longest = max(runs, key=len)
    return Span(longest[0], len(longest))


def _lent(us: socket.socket, parent: str, url: str, workers: int) -> tuple[socket.socket, ...]:
    """Return what the parent answers for each worker; those that share a socket lend it once."""
    found: dict[int, socket.socket] = {}
    for worker in range(workers):
        wanted = message(text_field(1, url), varint_field(2, worker))
        request = bytes_field(1, bytes_field(1, wanted))  # request { pass_listen_socket { … } }
        us.sendto(_LENGTH.pack(len(request)) + request, parent)
        _, descriptors, _, _ = socket.recv_fds(us, _LARGEST_ANSWER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        for descriptor in descriptors:
            lent = socket.socket(fileno=descriptor)
            if found.setdefault(os.fstat(descriptor).st_ino, lent) is not lent:
                lent.close()
    return tuple(found.values())
