"""The watchdog's hands: it looks at the actors, asks them for a sign of life, and kills what hangs.

What is a reason to kill is decided in `watchdog`.
"""

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from actors.messages import control as said
from actors.runtime import process, watchdog
from actors.runtime.child import STACKS_SIGNAL
from actors.runtime.family import Child, Running
from actors.runtime.loop import Loop
from actors.runtime.roles import Role
from pilot_agent.log import get_logger
from pilot_agent.service_manager import ServiceManager

_FIRST_S: Final = 1.0
_STARTED_WITH: Final = 2
"""With this heartbeat the supervisor has done what it does once."""

_STACKS_S: Final = 0.2
_log = get_logger()


class Watch:
    """Runs on the supervisor's loop from `begin` on."""

    def __init__(
        self,
        family: Mapping[Role, Child],
        *,
        left_out: Collection[Role],
        loop: Loop,
        say: Callable[[Child, object], None],
        service_manager: ServiceManager,
    ) -> None:
        """`left_out` may change; `say` sends a message to an actor."""
        self._family, self._left_out, self._loop, self._say = family, left_out, loop, say
        self._service_manager = service_manager
        self._last_look_s = time.monotonic()
        self._heartbeat = 0

    def begin(self) -> None:
        """Begin when Envoy has been helped to its feet: a look at all processes costs the start 20 ms."""
        self._last_look_s = time.monotonic() + _FIRST_S - watchdog.LOOK_EVERY_S
        self._loop.after(_FIRST_S, self._look)
        self._loop.after(_FIRST_S, self._beat)

    def stopped_or_continued(self, pid: int, *, stopped: bool) -> None:
        """Note a SIGSTOP or SIGCONT of whatever process."""
        for child in self._family.values():
            if child.running is not None and child.running.pid == pid:
                child.running.stopped_since_s = time.monotonic() if stopped else None
                self._loop.after(watchdog.STOPPED_FOR_S, self._judge)

    def _look(self) -> None:
        now_s = time.monotonic()
        away_s = watchdog.own_absence_s(self._last_look_s, now_s, watchdog.LOOK_EVERY_S)
        self._last_look_s = now_s
        if away_s:
            _log.info(f"the whole agent was frozen or suspended for {away_s:.1f} s: all clocks start anew")
        for child in self._family.values():
            if child.running is not None and child.running.silent_since_s is not None and away_s:
                child.running.silent_since_s = now_s
        self._judge()
        self._service_manager.look(
            all_ready=all(child.running is not None and child.running.ready for child in self._wanted())
        )
        self._loop.after(watchdog.LOOK_EVERY_S, self._look)

    def _judge(self) -> None:
        now_s = time.monotonic()
        for child in self._family.values():
            running = child.running
            if running is None or running.killed_because is not None:
                continue
            reason = watchdog.reason_to_kill(child.vitals(_private_bytes(running.pid)), now_s)
            if reason is not None:
                self._kill(child, running, reason)

    def _kill(self, child: Child, running: Running, reason: str) -> None:
        """Have the stacks written to the log, then kill; a stopped process cannot write any."""
        running.killed_because = reason
        _log.error(f"watchdog: actor {child.spec.role}: {reason}: killed", pid=running.pid)
        if running.stopped_since_s is not None:
            os.kill(running.pid, signal.SIGKILL)
            return
        os.kill(running.pid, STACKS_SIGNAL)

        def now() -> None:
            if child.running is running:
                os.kill(running.pid, signal.SIGKILL)

        self._loop.after(_STACKS_S, now)

    def _beat(self) -> None:
        self._heartbeat += 1
        if self._heartbeat == _STARTED_WITH:
            process.forget_code()
        now_s = time.monotonic()
        for child in self._family.values():
            if child.running is not None:
                if child.running.silent_since_s is None:
                    heard_s = max(child.running.started_s, child.answered_s)
                    child.running.silent_since_s = watchdog.silent_since_s(heard_s, now_s)
                self._say(child, said.Heartbeat(number=self._heartbeat))
        if (health := self._family.get(Role.HEALTH)) is not None:
            self._say(health, self._tree_state(now_s))
        self._loop.after(watchdog.HEARTBEAT_EVERY_S, self._beat)

    def _tree_state(self, now_s: float) -> said.TreeState:
        pss, _ = process.memory()
        return said.TreeState(
            actors=tuple(child.state(now_s) for child in self._wanted()), supervisor_pss_bytes=pss
        )

    def _wanted(self) -> list[Child]:
        return [child for role, child in self._family.items() if role not in self._left_out]


def _private_bytes(pid: int) -> int:
    import psutil  # noqa: PLC0415  # 12 ms that no start has to wait for

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - info.shared)
