"""Short-lived processes for heavy and rare work; their memory goes back to the system with them.

The supervisor forks one on request, from its warm image. Request and result travel over a stream
socket that the asking actor made: four bytes of length, then the bytes; a result begins with one byte,
0 for a result and 1 for an error text.
"""

import importlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from actors.messages.control import RunWorker, WorkerExited
from actors.runtime.context import WorkerFinished

_OK, _FAILED = b"\0", b"\1"
_STATUS_COMES_WITHIN_S: Final = 2.0


def serve_one(descriptor: int, function: str, *, limit_s: float) -> None:
    """Be the worker: read a request, run `function` ("module:name"), write the result. Never returns.

    SIGALRM's default action ends it when the work takes longer than `limit_s`.
    """
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        end = socket.socket(fileno=descriptor)
        write_frame(end, answer(resolve(function), read_frame(end)))
        status = 0
    except (OSError, EOFError):
        status = 1  # the asker is gone
    finally:
        os._exit(status)


def answer(function: Callable[[bytes], bytes], request: bytes) -> bytes:
    """Return the frame that tells the function's result, or its error in words."""
    try:
        return _OK + function(request)
    except Exception as error:  # noqa: BLE001  # the worker ends after it; the asker gets the words
        return _FAILED + (str(error) or type(error).__name__).encode(errors="replace")


def resolve(function: str) -> Callable[[bytes], bytes]:
    """Return the function that "module:name" means."""
    module, _, name = function.partition(":")
    found: Callable[[bytes], bytes] = getattr(importlib.import_module(module), name)
    return found


class Prestarted(msgspec.Struct, frozen=True):
    """A worker that was forked before the heavy imports, and waits for its request."""

    kind: str
    pid: int
    descriptor: int


class WorkerDesk:
    """The asking side, in an actor's process: hands out requests and collects results."""

    def __init__(
        self,
        *,
        ask: Callable[[RunWorker, int], None],
        deliver: Callable[[WorkerFinished], None],
        prestarted: dict[str, int],
    ) -> None:
        """Use `ask` to have a worker forked with a descriptor, `deliver` for results.

        `prestarted` maps a kind to the descriptor of a worker that waits already; it is used once.
        """
        self._ask, self._deliver, self._prestarted = ask, deliver, prestarted
        self._ended = threading.Condition()
        self._pending: dict[int, str] = {}  # worker_id → kind, until a result or a failure is delivered
        self._statuses: dict[int, int] = {}  # worker_id → wait status of those that ended meanwhile
        self._last_id = 0

    def run(self, kind: str, request: bytes, *, timeout_s: float) -> int:
        """Start one piece of work; WorkerFinished is delivered in any case."""
        with self._ended:
            early = self._prestarted.pop(kind, None)
            if early is None:
                self._last_id += 1
            worker_id = self._last_id if early is None else PRESTARTED_ID
            self._pending[worker_id] = kind
        wish = RunWorker(worker_id=worker_id, kind=kind, timeout_s=timeout_s)
        own = self._forked(wish) if early is None else socket.socket(fileno=early)
        threading.Thread(
            target=self._talk,
            args=(wish, own, request),
            kwargs={"is_early": early is not None},
            name=f"worker-{kind}",
            daemon=True,
        ).start()
        return worker_id

    def _forked(self, wish: RunWorker) -> socket.socket:
        own, theirs = socket.socketpair()
        self._ask(wish, theirs.detach())
        return own

    def exited(self, event: WorkerExited) -> None:
        """Note how a worker's process ended; whoever waits for its result may want to know."""
        with self._ended:
            if event.worker_id in self._pending:
                self._statuses[event.worker_id] = event.status
                self._ended.notify_all()

    def _talk(self, wish: RunWorker, own: socket.socket, request: bytes, *, is_early: bool) -> None:
        """Exchange request and result; a result that was sent counts, however the worker ended then.

        In place of a worker that was there early and is no more, which waits for a limited time, another
        is forked.
        """
        worker_id = wish.worker_id
        with own:
            try:
                write_frame(own, request)
                if not select.select([own], [], [], wish.timeout_s + 1.0)[0]:
                    self._finish(worker_id, None, "timed out")
                    return
                reply = read_frame(own)
            except (OSError, EOFError):
                if is_early:
                    self._talk(wish, self._forked(wish), request, is_early=False)
                else:
                    self._finish(worker_id, None, self._how_it_ended(worker_id))
                return
        if reply[:1] == _OK:
            self._finish(worker_id, reply[1:], "")
        else:
            self._finish(worker_id, None, reply[1:].decode(errors="replace"))

    def _how_it_ended(self, worker_id: int) -> str:
        with self._ended:
            self._ended.wait_for(lambda: worker_id in self._statuses, _STATUS_COMES_WITHIN_S)
            status = self._statuses.get(worker_id)
        if status is None:
            return "ended without a result"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return "timed out" if number == signal.SIGALRM else f"killed by signal {number}"
        return f"ended with status {os.waitstatus_to_exitcode(status)} and no result"

    def _finish(self, worker_id: int, result: bytes | None, error: str) -> None:
        with self._ended:
            kind = self._pending.pop(worker_id)
            self._statuses.pop(worker_id, None)
        self._deliver(WorkerFinished(worker_id=worker_id, kind=kind, result=result, error=error))


PRESTARTED_ID: Final = 0


def write_frame(end: socket.socket, data: bytes) -> None:
    """Send four bytes of length, then the bytes."""
    end.sendall(len(data).to_bytes(4, "big") + data)


def read_frame(end: socket.socket) -> bytes:
    """Return what `write_frame` sent.

    Raises:
        EOFError: the other side ended in the middle.
    """
    return _read_exactly(end, int.from_bytes(_read_exactly(end, 4), "big"))


def _read_exactly(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = end.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += part
    return bytes(data)
