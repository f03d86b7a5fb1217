"""A `Context` for actor tests: it records what is sent, and its clock moves when the test says so."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from actors.runtime.context import WorkerFinished
from actors.runtime.roles import CHANNELS, Role

M = TypeVar("M")


class MemoryNotebook:
    """Keeps the last state as its encoded bytes, as the real notebook does."""

    def __init__(self) -> None:
        self._kept: tuple[str, bytes] | None = None

    def save(self, state: object) -> None:
        self._kept = (type(state).__qualname__, msgspec.msgpack.encode(state))

    def restore(self, state_type: type[M]) -> M | None:
        if self._kept is None or self._kept[0] != state_type.__qualname__:
            return None
        return msgspec.msgpack.decode(self._kept[1], type=state_type)


@dataclass(slots=True)
class FakeTimer:
    due_s: float
    message: object
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class NoMark:
    def begin(self) -> None: ...
    def end(self) -> None: ...


@dataclass
class FakeContext:
    """One actor's context. `deliver` is where its mailbox is (set it to `ref.tell` after the start)."""

    role: Role
    incarnation: int = 1
    notebook: MemoryNotebook = field(default_factory=MemoryNotebook)
    options: tuple[object, ...] = ()
    workers: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    sent: list[tuple[Role, object]] = field(default_factory=list)
    told_supervisor: list[object] = field(default_factory=list)
    is_ready: bool = False
    handed_down: tuple[int, ...] = ()
    estate: tuple[bytes, tuple[int, ...]] = (b"", ())
    leaves: tuple[bytes, tuple[int, ...]] | None = None
    hands_down: tuple[int, ...] = ()  # what was handed to a successor, as it is: no copies
    fatal_reason: str | None = None
    counters: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    now_s: float = 0.0
    timers: list[FakeTimer] = field(default_factory=list)
    channel_handlers: dict[type, Callable[[Role, Any], None]] = field(default_factory=dict)
    deliver: Callable[[object], Any] | None = None
    on_send: Callable[[Role, object], None] | None = None
    _worker_ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def send(self, to: Role, message: object) -> None:
        if (self.role, to) not in CHANNELS:
            raise LookupError(f"no channel from {self.role} to {to}")
        self.sent.append((to, message))
        if self.on_send is not None:
            self.on_send(to, message)

    def on_channel(self, message_type: type[M], handler: Callable[[Role, M], None]) -> None:
        self.channel_handlers[message_type] = handler

    def receive(self, sender: Role, message: object) -> None:
        """Deliver what another actor sent, by the path that the actor chose for it."""
        handler = self.channel_handlers.get(type(message))
        if handler is not None:
            handler(sender, message)
        else:
            self.tell_self(message)

    def after(self, delay_s: float, message: object) -> FakeTimer:
        timer = FakeTimer(self.now_s + delay_s, message)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Move the clock and deliver what falls due, in order."""
        end_s = self.now_s + seconds
        while True:
            due = sorted(
                (t for t in self.timers if not t.cancelled and t.due_s <= end_s), key=lambda t: t.due_s
            )
            if not due:
                break
            self.timers.remove(due[0])
            self.now_s = max(self.now_s, due[0].due_s)
            self.tell_self(due[0].message)
        self.now_s = end_s

    def tell_self(self, message: object) -> None:
        assert self.deliver is not None, "set FakeContext.deliver to the actor's tell"
        self.deliver(message)

    def tell_supervisor(self, message: object) -> None:
        self.told_supervisor.append(message)

    def hand_down(self, descriptors: Iterable[int]) -> None:
        self.hands_down = tuple(descriptors)

    def leave_estate(self, body: bytes, descriptors: Iterable[int]) -> None:
        self.leaves = (body, tuple(descriptors))

    def ready(self) -> None:
        self.is_ready = True

    def fatal(self, reason: str, exit_status: int = 255) -> None:
        self.fatal_reason = reason

    def run_worker(self, kind: str, request: bytes, *, timeout_s: float) -> int:
        """Run the worker's function at once, in this process; its result goes to the mailbox."""
        worker_id = next(self._worker_ids)
        try:
            result, error = self.workers[kind](request), ""
        except Exception as failure:  # a worker's failure is data, as in the runtime
            result, error = None, str(failure)
        self.tell_self(WorkerFinished(worker_id=worker_id, kind=kind, result=result, error=error))
        return worker_id

    def mark(self, name: str) -> NoMark:
        return NoMark()

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        key = name + "".join(f",{k}={v}" for k, v in sorted(labels.items()))
        self.counters[key] = self.counters.get(key, 0.0) + value

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.counters[name + "".join(f",{k}={v}" for k, v in sorted(labels.items()))] = value

    def note(self, name: str, text: str) -> None:
        self.notes[name] = text

    def settings(self, settings_type: type[M]) -> M:
        return next(option for option in self.options if isinstance(option, settings_type))
