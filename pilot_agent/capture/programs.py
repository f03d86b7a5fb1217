"""Runs programs: posix_spawn and memory files, since `subprocess` would cost an init container 10 ms.

What a program reads and writes are files in memory: nobody has to feed or drain pipes, so several programs
can run at the same time.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Final, NamedTuple, Self

NOT_FOUND: Final = 127


class Completed(NamedTuple):
    """How a program ended; a negative status is the signal that killed it."""

    status: int
    output: str
    error: str


class Command(NamedTuple):
    words: tuple[str, ...]
    input: str = ""
    environment: Mapping[str, str] | None = None  # None: our own


Enter = Callable[[], None]


class Programs:
    """Starts programs and waits for them; `interrupt` ends the ones that run."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._finishing = self._interrupted = False

    def finish(self) -> None:
        """From now on nothing is interrupted any more: what was changed is put back."""
        self._finishing = True

    def run(self, command: Command, *, whole: bool = False) -> Completed:
        """Run a program; a `whole` one is not interrupted: killed, it could not tell what it has done."""
        return self.run_all([command], whole=whole)[0]

    def run_all(self, commands: Sequence[Command], *, whole: bool = False) -> list[Completed]:
        """Run programs at the same time and return how each ended."""
        if self._interrupted and not self._finishing:
            return [Completed(-signal.SIGTERM, "", "not started any more")] * len(commands)
        started = [_Started(command) for command in commands]
        self._running = set() if whole else {one.pid for one in started if one.pid}
        try:
            return [one.completed() for one in started]
        finally:
            self._running = set()

    def interrupt(self) -> None:
        """Ask the running programs to end; each of their transactions is whole or not begun."""
        self._interrupted = True
        for pid in () if self._finishing else self._running:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue


class _Started:
    def __init__(self, command: Command) -> None:
        self._files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
        os.write(self._files[0], command.input.encode(errors="surrogateescape"))
        os.lseek(self._files[0], 0, os.SEEK_SET)
        self._missing = ""
        try:
            self.pid = self._spawn(command)
        except (OSError, ValueError) as error:
            self.pid, self._missing = 0, _why_not_started(command.words[0], error)

    def completed(self) -> Completed:
        if not self.pid:
            self._close()
            return Completed(NOT_FOUND, "", self._missing)
        _, status = os.waitpid(self.pid, 0)
        output, error = (_content(file) for file in self._files[1:])
        self._close()
        return Completed(os.waitstatus_to_exitcode(status), output, error)

    def _spawn(self, command: Command) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(self._files)]
        environment = os.environ if command.environment is None else command.environment
        return os.posix_spawnp(
            command.words[0], command.words, environment, file_actions=actions, setsigmask=()
        )

    def _close(self) -> None:
        for file in self._files:
            os.close(file)


class Deferred:
    """While it is entered, SIGTERM, SIGINT and SIGHUP end the program that runs, not this process.

    What is under way then fails, is put back, and the signal takes its effect at the end.
    """

    _SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._caught = 0

    @property
    def caught(self) -> bool:
        return bool(self._caught)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._catch) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._caught:
            os.kill(os.getpid(), self._caught)
            os._exit(128 + self._caught)  # process 1 of a container is not killed by its own signal

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self._caught = self._caught or number
        self._programs.interrupt()


def _why_not_started(program: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f'exec: "{program}": executable file not found in $PATH'
    reason = error.strerror if isinstance(error, OSError) else error
    return f'exec: "{program}": {reason}'


def _content(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    data = bytearray()
    while piece := os.read(file, 1 << 20):
        data += piece
    return data.decode(errors="surrogateescape")  # an interface may have any name
