"""An actor's process from the fork to its end.

The main thread serves the control channel; the pykka actor has its own thread, and so has each
inbound channel. An error that escapes any of them ends the process: the supervisor then sees a death
and not a silence.
"""

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
import pykka
import setproctitle

from actors.messages.control import (
    Estate,
    Fatal,
    Heartbeat,
    HeartbeatAnswered,
    KeepDescriptors,
    Quit,
    Ready,
    RunWorker,
    WorkerExited,
)
from actors.runtime import process
from actors.runtime.actor import RuntimeActor
from actors.runtime.channels import ReaderThread, Receiver, Sender
from actors.runtime.codec import FrameError
from actors.runtime.notebook import FileNotebook
from actors.runtime.progress import Mark
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import ChildSpec
from actors.runtime.timers import TimerEntry, Timers
from actors.runtime.workers import WorkerDesk
from pilot_agent.log import get_logger, sink_descriptors

M = TypeVar("M")

_log = get_logger()

_STARTED_WITH: Final = 2
"""With this heartbeat an actor has done what it does once."""

STACKS_SIGNAL = signal.SIGUSR1
"""Makes a child write the stacks of all its threads to the log's first target."""


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """All that a new actor process is given; descriptors are plain numbers, owned by the child."""

    spec: ChildSpec
    incarnation: int
    parent_pid: int
    control: int
    notebook: int
    outbound: dict[Role, int]
    inbound: dict[Role, int]
    prestarted: dict[str, int]  # kind → descriptor of a worker that waits
    kept: tuple[int, ...]  # descriptors that stand in the settings
    handed_down: tuple[int, ...]  # by a predecessor
    estate: tuple[bytes, tuple[int, ...]]  # of the incarnation before
    settings: Settings

    def descriptors(self) -> set[int]:
        """Return all that the child must not close."""
        own = {self.control, self.notebook, *self.outbound.values(), *self.inbound.values()}
        own |= {*self.prestarted.values(), *self.kept, *self.handed_down, *self.estate[1]}
        return own | set(sink_descriptors())


def live(birth: Birth) -> None:
    """Be the actor. Never returns."""
    try:
        _become(birth)
        status = _Life(birth).run()
    except BaseException:  # noqa: BLE001  # the process ends here, and says why
        _log.error(f"{birth.spec.role}: {traceback.format_exc().rstrip()}")
        status = 1
    finally:
        os._exit(status)


def _become(birth: Birth) -> None:
    process.die_with_parent(birth.parent_pid)
    process.child_signals()
    process.close_all_but(birth.descriptors())
    setproctitle.setproctitle(f"pilot-agent: {birth.spec.role}")
    process.name_process(f"pa-{birth.spec.role}")
    if birth.spec.holds_secrets:
        process.keep_secrets()
    else:
        process.hold_no_secrets()
    faulthandler.register(STACKS_SIGNAL, file=sink_descriptors()[0], all_threads=True)
    threading.excepthook = _thread_died


def _thread_died(args: threading.ExceptHookArgs) -> None:
    """End the process with the error."""
    error = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    _log.error(f"thread {args.thread.name if args.thread else '?'}: {error.rstrip()}")
    os._exit(1)


class ProcessContext:
    """The `Context` of one incarnation (see there)."""

    def __init__(self, birth: Birth, control: Sender) -> None:
        self.role, self.incarnation = birth.spec.role, birth.incarnation
        self.ends_by_itself = birth.spec.ends_by_itself
        self.notebook = FileNotebook(birth.notebook)
        self.handed_down, self.estate = birth.handed_down, birth.estate
        self.handlers: dict[type, Callable[[Role, Any], None]] = {}
        self.marks: list[Mark] = []
        self.counters: dict[str, float] = {}
        self.gauges: dict[str, float] = {}
        self.notes: dict[str, str] = {}
        self.actor_ref: pykka.ActorRef[Any] | None = None
        self._control = control
        self._answered = 0  # heartbeats
        self._settings = birth.settings
        self._senders = {to: Sender(end, incarnation=birth.incarnation) for to, end in birth.outbound.items()}
        self._timers = Timers(self.tell_self)
        self._counters_lock = threading.Lock()
        self.workers = WorkerDesk(ask=self._ask_worker, deliver=self.tell_self, prestarted=birth.prestarted)

    def send(self, to: Role, message: object) -> None:
        try:
            sender = self._senders[to]
        except KeyError:
            raise LookupError(f"no channel from {self.role} to {to}") from None
        sender.send(message, getattr(message, "descriptors", ()))

    def on_channel(self, message_type: type[M], handler: Callable[[Role, M], None]) -> None:
        self.handlers[message_type] = handler

    def after(self, delay_s: float, message: object) -> TimerEntry:
        return self._timers.after(delay_s, message)

    def tell_self(self, message: object) -> None:
        try:
            assert self.actor_ref is not None, "the actor is told something before it is made"
            self.actor_ref.tell(message)
        except pykka.ActorDeadError:
            os._exit(1)  # its own end is logged by pykka; a process without its actor is of no use

    def tell_supervisor(self, message: object) -> None:
        self._control.send(message)

    def hand_down(self, descriptors: Iterable[int]) -> None:
        self._control.send(KeepDescriptors(), [os.dup(descriptor) for descriptor in descriptors])

    def leave_estate(self, body: bytes, descriptors: Sequence[int]) -> None:
        self._control.send(Estate(body=body), descriptors)

    def ready(self) -> None:
        self._control.send(Ready())

    def fatal(self, reason: str, exit_status: int = 255) -> None:
        self._control.send(Fatal(reason=reason, exit_status=exit_status))

    def run_worker(self, kind: str, request: bytes, *, timeout_s: float) -> int:
        return self.workers.run(kind, request, timeout_s=timeout_s)

    def mark(self, name: str) -> Mark:
        mark = Mark(name)
        self.marks.append(mark)
        return mark

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        key = series(name, labels)
        with self._counters_lock:
            self.counters[key] = self.counters.get(key, 0.0) + value

    def gauge(self, name: str, value: float, **labels: str) -> None:
        with self._counters_lock:
            self.gauges[series(name, labels)] = value

    def note(self, name: str, text: str) -> None:
        with self._counters_lock:
            self.notes[name] = text

    def settings(self, settings_type: type[M]) -> M:
        return self._settings.get(settings_type)

    def deliver(self, sender: Role, message: object) -> None:
        """Hand over what came through the channel from `sender`, by the path that the actor chose."""
        handler = self.handlers.get(type(message))
        if handler is not None:
            handler(sender, message)
        else:
            self.tell_self(message)

    def measured(self, number: int) -> HeartbeatAnswered:
        """Return the answer to a heartbeat, having given back what memory is free: starts leave some."""
        process.give_memory_back()
        self._answered += 1
        if self._answered == _STARTED_WITH:
            process.forget_code()
        pss, private = process.memory()
        with self._counters_lock:
            counters, gauges, notes = dict(self.counters), dict(self.gauges), dict(self.notes)
        inbox = getattr(self.actor_ref, "actor_inbox", None)
        return HeartbeatAnswered(
            number=number,
            pss_bytes=pss,
            private_bytes=private,
            descriptors=len(process.open_descriptors()),
            threads=process.thread_count(),
            mailbox_depth=inbox.qsize() if inbox is not None else 0,
            oldest_unfinished_s=max((mark.age_s() for mark in self.marks), default=0.0),
            counters=counters,
            gauges=gauges,
            notes=notes,
        )

    def _ask_worker(self, request: RunWorker, descriptor: int) -> None:
        self._control.send(request, (descriptor,))


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def series(name: str, labels: dict[str, str]) -> str:
    """Return the key of one time series as Prometheus writes it: `name{label="value",…}`, labels sorted."""
    if not labels:
        return name
    inner = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}"


class _Life:
    """The control channel's side of an actor's process."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._control = Receiver(os.dup(birth.control))
        self._context = ProcessContext(birth, Sender(birth.control, incarnation=birth.incarnation))

    def run(self) -> int:
        """Serve until the actor has quit; return the exit status."""
        actor_class = _guarded(self._birth.spec.load(), self._context)
        actor_class.start(self._context)
        for sender, descriptor in self._birth.inbound.items():
            self._read_from(sender, descriptor)
        while True:
            try:
                received = self._control.receive()
            except FrameError as error:
                _log.warn(f"control channel: {error}: skipped")
                continue
            if received is None:
                return 1  # the supervisor is gone
            message = received[0]
            if isinstance(message, Quit) and not self._birth.spec.ends_by_itself:
                return self._quit(message)
            if isinstance(message, WorkerExited):
                self._context.workers.exited(message)
            else:
                self._context.tell_self(message)

    def _read_from(self, sender: Role, descriptor: int) -> None:
        ReaderThread(sender, descriptor, lambda message: self._context.deliver(sender, message))

    def _quit(self, message: Quit) -> int:
        assert self._context.actor_ref is not None
        try:
            self._context.actor_ref.ask(message, timeout=message.deadline_s)
        except pykka.Timeout:
            _log.warn(f"{self._birth.spec.role}: not done within {message.deadline_s:g} s")
            return 1
        return 0


def _guarded(actor: type[Any], context: ProcessContext) -> type[RuntimeActor]:  # any RuntimeActor
    """Return `actor` with heartbeats answered from its mailbox, and its end ending the process."""
    ends_by_itself = context.ends_by_itself

    class Guarded(actor):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self, context: ProcessContext) -> None:
            super().__init__(context)
            context.actor_ref = self.actor_ref  # what on_start begins may be done before start() returns

        def on_start(self) -> None:
            try:
                super().on_start()
            except Exception:  # noqa: BLE001  # pykka would log it and leave an actor that does nothing
                self.on_failure(*sys.exc_info())

        def on_receive(self, message: object) -> object:
            if isinstance(message, Heartbeat):
                context.tell_supervisor(context.measured(message.number))
                return None
            if isinstance(message, Quit) and not ends_by_itself:
                if message.for_good:
                    self.forget()
                return self.quit(message.deadline_s)
            return super().on_receive(message)

        def on_failure(self, *error: Any) -> None:  # pykka's own signature
            _log.error(f"{context.role}: {''.join(traceback.format_exception(*error)).rstrip()}")
            os._exit(1)

    Guarded.__name__ = actor.__name__
    return Guarded
