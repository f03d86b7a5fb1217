"""What an actor may do beyond its own logic: speak, remember, be woken, have work done.

An actor gets a `Context` and nothing else of the runtime. All of its methods may be called from any
thread of the actor's process, and none of them blocks.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from actors.runtime.roles import Role

M = TypeVar("M")


class Timer(Protocol):
    """A wake-up that is due later."""

    def cancel(self) -> None:
        """Forget it; harmless after it was delivered."""


class ProgressMark(Protocol):
    """Marks one piece of byte-path work, so that the watchdog sees a thread that hangs in it."""

    def begin(self) -> None: ...
    def end(self) -> None: ...


class Notebook(Protocol):
    """The actor's memory that outlives it; never on a disk."""

    def save(self, state: object) -> None:
        """Keep `state` (a frozen struct that msgspec encodes) instead of what was kept."""

    def restore(self, state_type: type[M]) -> M | None:
        """Return what was saved last; None when there is nothing, or it is of another type or version."""


class WorkerFinished(msgspec.Struct, frozen=True, kw_only=True):
    """Delivered to the actor's own mailbox: a worker's result, or why there is none."""

    worker_id: int
    kind: str
    result: bytes | None  # None: it failed
    error: str  # empty on success; else the worker's own words, or "killed by signal 9", "timed out"


class Context(Protocol):
    """One incarnation's way to everything outside the actor."""

    role: Role
    incarnation: int  # grows by one with every restart of this actor, first 1
    notebook: Notebook
    handed_down: tuple[int, ...]  # descriptors of a predecessor's `hand_down`, owned by this process
    estate: tuple[bytes, tuple[int, ...]]  # of the incarnation before; the descriptors are this process's own

    def send(self, to: Role, message: object) -> None:
        """Queue `message` for another actor; at most once, in order, never blocking.

        A message with a field `descriptors` hands these files over: the receiver finds its own numbers there.

        Raises:
            LookupError: the table of `roles.CHANNELS` has no such pair (a programming error).
        """

    def on_channel(self, message_type: type[M], handler: Callable[[Role, M], None]) -> None:
        """Hand messages of this type to `handler` on the channel's reader thread, past the mailbox.

        For the byte path. Everything else that arrives goes to the actor's mailbox as it is.
        To be called before `ready`.
        """

    def after(self, delay_s: float, message: object) -> Timer:
        """Tell `message` to the actor's own mailbox after `delay_s` seconds (monotonic)."""

    def tell_self(self, message: object) -> None:
        """Put `message` into the actor's own mailbox now (from a thread of its process)."""

    def tell_supervisor(self, message: object) -> None:
        """Send one of `actors.messages.control` to the supervisor."""

    def hand_down(self, descriptors: Iterable[int]) -> None:
        """Have the supervisor keep copies of these descriptors and give them to this actor's successors.

        For bound sockets: what waits in the kernel's queue then outlives whoever serves it. Eight at
        most; a second call replaces what the first one handed down.
        """

    def leave_estate(self, body: bytes, descriptors: Sequence[int]) -> None:
        """Give the next incarnation, and no later one, what it goes on with; reply to LeaveEstate.

        For connections, whose state is true once. 60 descriptors at most; they are closed here.
        """

    def ready(self) -> None:
        """Say that this actor serves."""

    def fatal(self, reason: str, exit_status: int = 255) -> None:
        """Say that the agent cannot work as configured; the supervisor ends it with this status."""

    def run_worker(self, kind: str, request: bytes, *, timeout_s: float) -> int:
        """Have `request` worked on in a short-lived process; WorkerFinished comes to the mailbox.

        `kind` is a name in `actors.tree.WORKERS`, whose function gets the request and returns the
        result's bytes. Returns the worker_id. The worker is killed at the time-out.
        """

    def mark(self, name: str) -> ProgressMark:
        """Return a mark for one thread's byte-path work."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter of this process (name without the `istio_agent_` prefix)."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge of this process."""

    def note(self, name: str, text: str) -> None:
        """Set a text of the status page; it goes with the next heartbeat, and outlives this process.

        `name` is a path whose first part is the topic: `certificate/serial`. No secret may stand in it.
        """

    def settings(self, settings_type: type[M]) -> M:
        """Return the one settings object of this type (a topic's frozen struct)."""


class Actor(Protocol):
    """What the runtime asks of an actor: a pykka ThreadingActor made with its context alone."""

    def __init__(self, context: Context) -> None: ...

    def on_receive(self, message: Any) -> Any:  # pykka's own signature
        ...

    def quit(self, deadline_s: float) -> None:
        """End in order within `deadline_s`; called on the actor's thread; the process ends after it."""
