"""What one supervisor leaves to the next when it executes another program in its own place.

The process stays the same, and so do its children: Envoys, actors, workers. What is passed is what only the
supervisor's memory knew of them, and the numbers of the descriptors that belong to them. It travels in a
memfd whose number stands in PILOT_AGENT_HANDOVER.
"""

import os
import signal
from collections.abc import MutableMapping
from typing import Final, NoReturn

import msgspec

from actors.messages.control import EnvoyExited, EnvoyProcess
from actors.runtime import process
from pilot_agent.unreadable import UNREADABLE

VARIABLE: Final = "PILOT_AGENT_HANDOVER"
_FORMAT: Final = 1
_HELD: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2})
"""What comes while nobody listens waits in the kernel: an exec keeps mask and pending signals."""


class HandoverError(ValueError):
    """It cannot be read: made by a version that this one does not know."""


class Launch(msgspec.Struct, frozen=True):
    """How a program was started: its command line and its environment, as they were."""

    command: tuple[str, ...]
    environment: dict[str, str]


class HandedActor(msgspec.Struct, frozen=True, kw_only=True):
    """One actor; pid 0 where it has not been started."""

    role: str
    incarnation: int
    notebook: int
    handed_down: tuple[int, ...] = ()
    pid: int = 0
    control: int = -1


class HandedWorker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that somebody waits for."""

    pid: int
    role: str
    worker_id: int


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """Everything; `back` is how to become again what handed over, None where that failed already."""

    actors: tuple[HandedActor, ...]
    channels: tuple[tuple[str, str, int, int], ...]  # sender, receiver, write end, read end
    envoys: tuple[EnvoyProcess, ...]
    envoys_ended: tuple[EnvoyExited, ...]
    workers: tuple[HandedWorker, ...]
    kept: tuple[int, ...]
    leash: tuple[int, ...] = ()  # of the Envoys
    back: Launch | None
    reason: str = ""  # why this is the way back
    knows_estates: bool = False  # its actors understand LeaveEstate; one from before that does not say so
    format: int = _FORMAT

    def descriptors(self) -> list[int]:
        """Return all that must stay open."""
        found = [end for *_, write, read in self.channels for end in (write, read)]
        for actor in self.actors:
            found += [actor.notebook, *actor.handed_down, *([actor.control] if actor.pid else [])]
        return [*found, *self.kept, *self.leash]


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """How this process came to be what it is, and what it takes to become another version."""

    launch: Launch
    words: tuple[str, ...]  # the arguments that any version gets
    directory: str  # where the wish for an upgrade is read
    taken: Handover | None = None


def execute(launch: Launch, handover: Handover) -> NoReturn:
    """Become another program, with all children.

    Raises:
        OSError: it cannot be executed; nothing has changed then.
    """
    memory = os.memfd_create("handover")
    try:
        os.write(memory, msgspec.msgpack.encode(handover))
        environment = {**launch.environment, VARIABLE: str(memory)}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        for descriptor in (memory, *handover.descriptors()):
            os.set_inheritable(descriptor, True)
        process.hold_no_secrets()  # the limit for cores is inherited, and Envoy's is the container's own
        try:
            os.execvpe(launch.command[0], launch.command, environment)  # noqa: S606  # no shell is the point
        finally:
            process.keep_secrets()
            for descriptor in handover.descriptors():
                os.set_inheritable(descriptor, False)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        os.close(memory)


def go_back(taken: Handover, reason: str) -> NoReturn:
    """Become the version before again with all that it left, before this one has begun with it.

    Raises:
        OSError: it cannot be executed any more.
    """
    assert taken.back is not None
    execute(taken.back, msgspec.structs.replace(taken, back=None, reason=reason))


def take(variables: MutableMapping[str, str]) -> Handover | None:
    """Return what was left to this process, None when it was started in an ordinary way.

    Raises:
        HandoverError: it is of another format.
    """
    text = variables.pop(VARIABLE, "")
    if not text:
        return None
    memory = int(text)
    data = os.pread(memory, os.fstat(memory).st_size, 0)
    os.close(memory)
    try:
        handover = msgspec.msgpack.decode(data, type=Handover)
    except UNREADABLE as error:
        raise HandoverError(f"the state of the agent before cannot be read: {error}") from error
    if handover.format != _FORMAT:
        raise HandoverError(f"state of the agent before: format got={handover.format} expected={_FORMAT}")
    for descriptor in handover.descriptors():
        os.set_inheritable(descriptor, False)
    return handover


def listen_again() -> None:
    """Let the signals come that waited during the exec; to be called once there are handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
