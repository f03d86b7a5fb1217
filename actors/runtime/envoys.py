"""The supervisor's part in Envoy's life: to be its parent.

An Envoy with hot restart sets PR_SET_PDEATHSIG and so ends with the process that spawned it; and only a
parent can read an exit status. So EnvoyActor decides, and the supervisor spawns, signals and reaps.
"""

import os
import signal
from collections.abc import Iterable
from typing import Final

import psutil

from actors.messages.control import EnvoyExited, EnvoyInventory, EnvoyProcess, SpawnEnvoy
from actors.runtime import leash, process

_DEFAULT_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGPIPE,
)


class EnvoyKeeper:
    """The Envoys that live, and the ends that EnvoyActor has not noted yet."""

    def __init__(self, alive: Iterable[EnvoyProcess] = (), ended: Iterable[EnvoyExited] = ()) -> None:
        """Begin with the children that this process had before it executed itself anew."""
        self._alive = {envoy.pid: envoy for envoy in alive}
        self._ended = {event.process.generation: event for event in ended}

    def spawn(self, wish: SpawnEnvoy) -> EnvoyProcess:
        """Start an Envoy, or return the one of this generation that lives already: it was asked for twice.

        Raises:
            OSError: it cannot be executed; the message is what Go's os/exec says.
        """
        for living in self._alive.values():
            if living.generation == wish.generation:
                return living
        try:
            pid = _spawn(wish)
        except OSError as error:
            text = (os.strerror(error.errno) if error.errno else str(error)).lower()
            raise OSError(f"fork/exec {wish.argv[0]}: {text}") from error
        spawned = EnvoyProcess(
            generation=wish.generation, pid=pid, create_time=psutil.Process(pid).create_time()
        )
        self._alive[pid] = spawned
        return spawned

    def signal(self, wanted: EnvoyProcess, number: int) -> None:
        """Send a signal to exactly this process; nothing happens when it has ended."""
        if self._alive.get(wanted.pid) == wanted:
            os.kill(wanted.pid, number)  # our own unreaped child: the pid cannot be another's

    def find(self, pid: int) -> EnvoyProcess | None:
        """Return the living Envoy of this pid."""
        return self._alive.get(pid)

    def exited(self, pid: int, status: int) -> EnvoyExited:
        """Note an end."""
        event = EnvoyExited(process=self._alive.pop(pid), status=status)
        self._ended[event.process.generation] = event
        return event

    def end_noted(self, generation: int) -> None:
        """Forget an end that EnvoyActor has in its notebook."""
        self._ended.pop(generation, None)

    def inventory(self) -> EnvoyInventory:
        """Return what a new incarnation of EnvoyActor has to know."""
        return EnvoyInventory(alive=tuple(self._alive.values()), ended=tuple(self._ended.values()))

    def signal_all(self, number: int) -> None:
        """Send a signal to every Envoy that lives."""
        for pid in self._alive:
            os.kill(pid, number)

    def any_alive(self) -> bool:
        """Return whether an Envoy lives."""
        return bool(self._alive)


def _spawn(wish: SpawnEnvoy) -> int:
    """Fork, prctl, exec; the exec's failure comes back through a pipe that a successful exec closes."""
    parent, _ = os.getpid(), leash.ends()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become_envoy(wish, parent)
        except OSError as error:
            os.write(write_end, (error.errno or 0).to_bytes(4, "big"))
        finally:
            os._exit(127)
    os.close(write_end)
    with open(read_end, "rb") as pipe:  # noqa: PTH123  # a descriptor
        failure = pipe.read(4)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int.from_bytes(failure, "big"), "exec failed")
    return pid


def _become_envoy(wish: SpawnEnvoy, parent: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    process.hold_no_secrets()  # which opens /proc/self to a user that is not root
    leash.take()  # before setuid: the pipe is the supervisor's user's
    if wish.gid >= 0:
        os.setgid(wish.gid)
    if wish.uid >= 0:
        os.setuid(wish.uid)
    process.hold_no_secrets()  # setuid undid it; the core limit is the container's own
    process.die_with_parent(parent)  # after setuid, which clears it
    os.execve(wish.argv[0], wish.argv, wish.environment)  # noqa: S606  # no shell is the point
