"""Forks the next incarnation of an actor, with all that it inherits."""

import os
import signal
import time
from collections.abc import Callable, Mapping

from actors.runtime import process
from actors.runtime.channels import ChannelTable, seqpacket_pair
from actors.runtime.child import Birth, live
from actors.runtime.control import ControlEnd
from actors.runtime.family import Child, Running
from actors.runtime.roles import Role
from actors.runtime.settings import Settings


class Births:
    """What every actor is born with."""

    def __init__(
        self,
        channels: ChannelTable,
        settings: Settings,
        kept: tuple[int, ...],
        waiting: Callable[[], Mapping[str, int]],
    ) -> None:
        """`kept` stand in the settings; `waiting` tells the workers that wait for the first CertActor."""
        self.channels, self.kept = channels, kept
        self._settings, self._waiting = settings, waiting

    def fork(self, child: Child) -> Running:
        """Fork the next incarnation.

        Raises:
            OSError: something that it needs cannot be had; nothing is left of the attempt.
        """
        ours, theirs = seqpacket_pair()
        child.incarnation += 1
        birth = self._birth(child, theirs)  # here: a child that errs before `live` would be a supervisor
        try:
            pid = process.fork()
            if pid == 0:
                live(birth)
        except OSError:
            child.incarnation -= 1
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        child.inherit((b"", ()))  # what was left is given once
        try:
            return Running(pid, os.pidfd_open(pid), ControlEnd(ours), time.monotonic())
        except OSError:
            os.kill(pid, signal.SIGKILL)  # reaped as one that nobody knows
            os.close(ours)
            raise

    def _birth(self, child: Child, control: int) -> Birth:
        role = child.spec.role
        uses_early = role is Role.CERT and child.incarnation == 1  # a waiting worker's socket has one reader
        return Birth(
            spec=child.spec,
            incarnation=child.incarnation,
            parent_pid=os.getpid(),
            control=control,
            notebook=child.notebook,
            outbound=self.channels.outbound(role),
            inbound=self.channels.inbound(role),
            prestarted=dict(self._waiting()) if uses_early else {},
            kept=self.kept,
            handed_down=child.handed_down,
            estate=child.estate,
            settings=self._settings,
        )
