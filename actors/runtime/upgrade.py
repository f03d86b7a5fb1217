"""Live upgrade: the supervisor becomes another version in place, then the actors follow one by one.

    SIGUSR2 → the new program is tried beside as a probe → exec in place → each actor in turn is killed and
    lives again from its notebook → done; or, at any failure, exec of the old program, and the same again.

Envoy is not touched: it stays the child of this process. An actor's end costs no request; that is what the
notebooks and the channels are for.
"""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Final, Protocol

from actors.runtime import handover as handing
from actors.runtime.family import Child, Family
from actors.runtime.handover import Handover, Launch, Life
from actors.runtime.loop import Loop
from pilot_agent.log import get_logger

_log = get_logger()

WISH: Final = "upgrade"
"""A file in the agent's own directory: the program to become."""

RESULT: Final = "upgrade-result"
"""What became of it: a line."""

PROBE: Final = "PILOT_AGENT_UPGRADE_PROBE"
"""Set for a probe: copies of the notebooks, `ROLE=DESCRIPTOR,…`."""

UPGRADED: Final = "replaced by the upgrade"
_PROBE_S: Final = 30.0
_READY_S: Final = 20.0
_LOOK_S: Final = 0.02


class Tree(Protocol):
    """What the supervisor does for an upgrade."""

    def replace(self, child: Child, *, asks_estate: bool) -> None:
        """End an actor so that it is started again at once, with its connections if it may be asked."""

    def why_no_upgrade(self) -> str:
        """Return why now is no time for it, "" if it is."""

    def hand_over(self, back: Launch | None, reason: str) -> Handover:
        """Return the state; takes what to go back to, and why this is the way back."""


class Upgrade:
    """The supervisor's part in becoming another version of itself."""

    def __init__(self, life: Life, loop: Loop, family: Family, tree: Tree) -> None:
        """Be ready for a wish."""
        self._life, self._loop, self._family, self._tree = life, loop, family, tree
        self._directory = Path(life.directory)
        self._probe: subprocess.Popen[bytes] | None = None
        self._said = -1  # where the probe writes
        self._new: Launch | None = None

    # --- the old version ------------------------------------------------------------------------

    def wanted(self) -> None:
        """Begin with the program that the wish names."""
        if self._probe is not None:
            _log.warn("upgrade: one is under way")
            return
        try:
            program = Path((self._directory / WISH).read_text(encoding="utf-8").strip())
            (self._directory / WISH).unlink()
            self._refuse_unless_other(program)
            self._try(program)
        except (OSError, ValueError) as error:
            self._tell(f"refused: {error}")

    def _refuse_unless_other(self, program: Path) -> None:
        if not program.is_absolute() or not os.access(program, os.X_OK):
            raise ValueError(f"{program} is no program that can be run; expected an absolute path")
        if reason := self._tree.why_no_upgrade():
            raise ValueError(reason)
        own = [Path(word) for word in self._life.launch.command if Path(word).is_file()]
        if any(program.samefile(one) for one in own):
            raise ValueError(f"{program} is what runs; a new version goes beside it, or there is no way back")

    def _try(self, program: Path) -> None:
        copies = {child.spec.role: _copy(child.notebook) for child in self._family.values()}
        probe = ",".join(f"{role}={descriptor}" for role, descriptor in copies.items())
        self._new = Launch((str(program), *self._life.words), self._life.launch.environment)
        self._said = os.memfd_create("probe")
        try:
            self._probe = subprocess.Popen(
                self._new.command,
                env={**self._new.environment, PROBE: probe},
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=tuple(copies.values()),
            )
        finally:
            for descriptor in copies.values():
                os.close(descriptor)
        _log.info(f"upgrade: trying {program}", pid=self._probe.pid)
        probing = self._probe
        self._loop.after(_PROBE_S, lambda: self._give_up(probing))

    def _give_up(self, probe: "subprocess.Popen[bytes]") -> None:
        if self._probe is probe:
            with contextlib.suppress(ProcessLookupError):
                os.kill(probe.pid, 9)  # its end comes through `ended`

    def ended(self, pid: int, status: int) -> bool:
        """Return whether the process that ended was the probe; a good one is followed at once."""
        if self._probe is None or self._probe.pid != pid:
            return False
        self._probe.returncode = os.waitstatus_to_exitcode(status)  # reaped already
        self._probe = None
        last = os.pread(self._said, 65536, 0).decode(errors="replace").strip().rpartition("\n")[2]
        os.close(self._said)
        if status != 0 or self._new is None:
            self._tell(f"refused: the new version does not start so (status {status}): {last}")
        elif reason := self._tree.why_no_upgrade():
            self._tell(f"refused: {reason}")
        else:
            _log.info(f"upgrade: becoming {self._new.command[0]}")
            self._become(self._new, back=self._life.launch, reason="")
        return True

    def _become(self, launch: Launch, *, back: Launch | None, reason: str) -> None:
        try:
            handing.execute(launch, self._tree.hand_over(back, reason))
        except OSError as error:
            self._tell(f"refused: {launch.command[0]}: {error.strerror}")

    # --- the new version ------------------------------------------------------------------------

    def renew(self) -> None:
        """Replace the actors of the version before, one by one; go back if one of them does not come up."""
        if (taken := self._life.taken) is None:
            return
        self._taken = taken
        old = {actor.role: actor.incarnation for actor in taken.actors if actor.pid}
        self._next([child for role, child in self._family.items() if role in old], old)

    def _next(self, left: list[Child], old: dict[str, int]) -> None:
        if not left:
            self._done()
            return
        child = left[0]
        if child.incarnation == old[child.spec.role] and child.running is not None:
            self._tree.replace(child, asks_estate=self._taken.knows_estates)
        self._wait(left, old, int(_READY_S / _LOOK_S))

    def _wait(self, left: list[Child], old: dict[str, int], looks: int) -> None:
        child = left[0]
        is_new = child.incarnation > old[child.spec.role]
        if is_new and child.running is not None and child.running.ready:
            self._next(left[1:], old)
        elif looks == 0 or child.failures > 1:
            self._go_back(f"actor {child.spec.role} did not become Ready")
        else:
            self._loop.after(_LOOK_S, lambda: self._wait(left, old, looks - 1))

    def _go_back(self, reason: str) -> None:
        if self._taken.back is None:
            self._tell(f"failed: {reason}; there is nothing left to go back to, it is tried on and on")
            return
        _log.error(f"upgrade: {reason}: going back to {self._taken.back.command[0]}")
        self._become(self._taken.back, back=None, reason=reason)

    def _done(self) -> None:
        self._tell(f"went back: {self._taken.reason}" if self._taken.reason else "upgraded")

    def _tell(self, result: str) -> None:
        (_log.info if result == "upgraded" else _log.error)(f"upgrade: {result}")
        with contextlib.suppress(OSError):  # a full volume: the log has it
            part = self._directory / f"{RESULT}.part"
            part.write_text(f"{result}\n", encoding="utf-8")
            part.replace(self._directory / RESULT)


def _copy(descriptor: int) -> int:
    """Return a memfd with the same content; what is not written stays a hole."""
    copy = os.memfd_create("notebook-copy")
    size, at = os.fstat(descriptor).st_size, 0
    os.ftruncate(copy, size)
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # only a hole is left
            break
        data = os.pread(descriptor, min(os.lseek(descriptor, at, os.SEEK_HOLE) - at, 1 << 20), at)
        os.pwrite(copy, data, at)
        at += len(data)
    return copy
