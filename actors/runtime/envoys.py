"""The supervisor's part in Envoy's life: to be its parent.

An Envoy with hot restart sets PR_SET_PDEATHSIG and so ends with the process that spawned it; and only a
parent can read an exit status. So EnvoyActor decides, and the supervisor spawns, signals and reaps.
"""

import os
import signal
from collections.abc import Iterable

from actors.messages.control import EnvoyExited, EnvoyInventory, EnvoyProcess, SpawnEnvoy
from actors.runtime import process
from actors.runtime.exec_envoy import exec_envoy


class EnvoyKeeper:
    """The Envoys that live, and the ends that EnvoyActor has not noted yet."""

    def __init__(self, alive: Iterable[EnvoyProcess] = (), ended: Iterable[EnvoyExited] = ()) -> None:
        """Begin with the children that this process had before it executed itself anew."""
        self._alive = {envoy.pid: envoy for envoy in alive}
        self._ended = {event.process.generation: event for event in ended}
        self._unclaimed: int | None = None  # generation of one that nobody has asked for yet

    def take_in(self, pid: int, generation: int) -> None:
        """Keep an Envoy that was spawned before anybody asked: who first asks for its generation gets it.

        Until then nobody hears of it, nor of its end.
        """
        self._alive[pid] = _described(pid, generation)
        self._unclaimed = generation

    def has_unclaimed(self, generation: int) -> bool:
        """Return whether the Envoy of this generation was spawned, and nobody has asked for it yet."""
        return self._unclaimed == generation

    def end_unclaimed(self) -> None:
        """End the Envoy that nobody has asked for; it is gone when this returns."""
        if self._unclaimed is None:
            return
        for envoy in [each for each in self._alive.values() if each.generation == self._unclaimed]:
            os.kill(envoy.pid, signal.SIGKILL)
            os.waitpid(envoy.pid, 0)
            del self._alive[envoy.pid]
        self._ended.pop(self._unclaimed, None)
        self._unclaimed = None

    def spawn(self, wish: SpawnEnvoy) -> EnvoyProcess:
        """Start an Envoy, or return the one of this generation that lives already: it was asked for twice.

        Raises:
            OSError: it cannot be executed; the message is what Go's os/exec says.
        """
        if self._unclaimed == wish.generation:
            self._unclaimed = None
            if wish.generation in self._ended:
                return self._ended[wish.generation].process
        for living in self._alive.values():
            if living.generation == wish.generation:
                return living
        try:
            pid = exec_envoy(wish)
        except OSError as error:
            text = (os.strerror(error.errno) if error.errno else str(error)).lower()
            raise OSError(f"fork/exec {wish.argv[0]}: {text}") from error
        self._alive[pid] = spawned = _described(pid, wish.generation)
        return spawned

    def signal(self, wanted: EnvoyProcess, number: int) -> None:
        """Send a signal to exactly this process; nothing happens when it has ended."""
        if self._alive.get(wanted.pid) == wanted:
            os.kill(wanted.pid, number)  # our own unreaped child: the pid cannot be another's

    def find(self, pid: int) -> EnvoyProcess | None:
        """Return the living Envoy of this pid."""
        return self._alive.get(pid)

    def exited(self, pid: int, status: int) -> EnvoyExited | None:
        """Note an end; return what EnvoyActor is to be told, None if it has not asked for this one yet."""
        event = EnvoyExited(process=self._alive.pop(pid), status=status)
        self._ended[event.process.generation] = event
        return None if event.process.generation == self._unclaimed else event

    def end_of(self, envoy: EnvoyProcess) -> EnvoyExited | None:
        """Return its end, if it has ended."""
        event = self._ended.get(envoy.generation)
        return event if event is not None and event.process == envoy else None

    def end_noted(self, generation: int) -> None:
        """Forget an end that EnvoyActor has in its notebook."""
        self._ended.pop(generation, None)

    def inventory(self) -> EnvoyInventory:
        """Return what a new incarnation of EnvoyActor has to know."""
        return EnvoyInventory(
            alive=tuple(each for each in self._alive.values() if each.generation != self._unclaimed),
            ended=tuple(each for each in self._ended.values() if each.process.generation != self._unclaimed),
        )

    def signal_all(self, number: int) -> None:
        """Send a signal to every Envoy that lives."""
        for pid in self._alive:
            os.kill(pid, number)

    def any_alive(self) -> bool:
        """Return whether an Envoy lives."""
        return bool(self._alive)


def _described(pid: int, generation: int) -> EnvoyProcess:
    return EnvoyProcess(generation=generation, pid=pid, create_time=process.create_time_s(pid))
