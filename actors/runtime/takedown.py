"""The end of the tree: Envoys by SIGTERM and then SIGKILL, actors last to first, each with its deadline."""

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

from actors.messages import control as said
from actors.runtime.envoys import EnvoyKeeper
from actors.runtime.family import Child, Running
from actors.runtime.loop import Loop
from actors.runtime.roles import Role
from pilot_agent.log import get_logger

_ENVOY_TERM_S: Final = 1.0
_ENVOY_LOOK_S: Final = 0.02
_log = get_logger()


class Takedown:
    """Runs on the supervisor's loop from `begin` on; tells `done` when nobody is left."""

    def __init__(
        self,
        family: Mapping[Role, Child],
        envoys: EnvoyKeeper,
        *,
        loop: Loop,
        say: Callable[[Child, object], None],
        done: Callable[[], None],
    ) -> None:
        """`say` sends a message to an actor."""
        self._family, self._envoys, self._loop, self._say, self._done = family, envoys, loop, say, done
        self._order: list[Role] = []
        self._for_good = False

    def begin(self, *, for_good: bool) -> None:
        """`for_good`: the end was asked for, so nothing is kept for a next start."""
        self._order, self._for_good = list(self._family)[::-1], for_good
        if self._envoys.any_alive():
            self._envoys.signal_all(signal.SIGTERM)
            self._loop.after(_ENVOY_TERM_S, lambda: self._envoys.signal_all(signal.SIGKILL))
        self.go_on()

    def go_on(self) -> None:
        """Ask the next actor to quit once the one before is gone; the last step waits for the Envoys."""
        while self._order:
            child = self._family[self._order[0]]
            if child.running is not None:
                self._ask_to_quit(child, child.running)
                return
            self._order.pop(0)
        if self._envoys.any_alive():
            self._loop.after(_ENVOY_LOOK_S, self.go_on)
            return
        self._done()

    def _ask_to_quit(self, child: Child, running: Running) -> None:
        if running.killed_because is not None:
            return  # asked already, or dying
        running.killed_because = "quit"
        if child.spec.ends_by_itself:
            os.kill(running.pid, signal.SIGKILL)  # it has said that all is over, or cannot
            return
        deadline_s = child.spec.quit_s
        self._say(child, said.Quit(deadline_s=deadline_s, for_good=self._for_good))
        self._loop.after(deadline_s, lambda: _kill_late(child, running))


def _kill_late(child: Child, running: Running) -> None:
    if child.running is running:
        _log.warn(f"actor {child.spec.role} did not quit in time: killed", pid=running.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
