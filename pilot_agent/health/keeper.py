"""Answers "is Envoy ready?" for any thread; what was earned once is answered from memory."""

import threading
from collections.abc import Callable
from typing import Final

from pilot_agent.health.admin import refusal
from pilot_agent.health.generations import Generation, Generations

_EARN_AFTER_S: Final = 0.1
_EARN_AFTER_AT_MOST_S: Final = 2.0
"""An Envoy that reports LIVE is asked until it is ready, at growing intervals: no hot restart waits for a
probe, and one that never gets CDS (a bootstrap of the user's own) is not asked ten times a second."""


class ReadinessKeeper:
    """Holds the generations, and asks those that have not earned readiness yet.

    One question to Envoy is under way at a time; who comes meanwhile waits for it (4 s at most) and
    then sees its result. Nobody waits where a generation is ready already.
    """

    def __init__(
        self,
        host: str,
        generations: Generations,
        changed: Callable[[Generations], None],
    ) -> None:
        """`changed` is called, on whichever thread it happens, after each change worth keeping."""
        self._host, self._changed = host, changed
        self._state = generations
        self._lock = threading.Lock()  # guards _state; never held during I/O
        self._asking = threading.Lock()  # one question at a time
        self._answers = 0  # questions answered so far; both are guarded by _asking
        self._last_answer: str | None = None
        self._went_live = threading.Condition(self._lock)
        self._ended = False

    @property
    def generations(self) -> Generations:
        return self._state

    def apply(self, step: Callable[[Generations], Generations]) -> None:
        """Change the state by a pure `step` and tell `changed` if it made a difference."""
        with self._lock:
            before, self._state = self._state, step(self._state)
            differs = before != self._state
            self._went_live.notify_all()
        if differs:
            self._changed(self._state)

    def refusal(self) -> str | None:
        """Return None when Envoy is ready, else the reason. Blocks for Envoy's admin at most (1 s + 3 s)."""
        state = self._state
        if state.draining_cause:
            return f"server is terminated: {state.draining_cause}"
        if state.any_ready():
            return None
        if not state.alive:
            return _no_envoy(state)
        return self._asked()

    def earn(self) -> None:
        """Ask every generation that is LIVE and not ready yet, for as long as `close` was not called.

        To be run in a thread of its own: so a new epoch is ready before the old one ends, though no
        probe asks for it.
        """
        pause_s, before = _EARN_AFTER_S, self._state
        while self._awaits_work():
            with self._asking:
                for each in self._state.unearned():
                    if each.live:
                        self._ask(each)
            pause_s = min(pause_s * 1.5, _EARN_AFTER_AT_MOST_S) if self._state == before else _EARN_AFTER_S
            before = self._state
            with self._lock:
                if not self._ended:
                    self._went_live.wait(pause_s)

    def close(self) -> None:
        """End `earn`."""
        with self._lock:
            self._ended = True
            self._went_live.notify_all()

    def _awaits_work(self) -> bool:
        with self._lock:
            while not self._ended:
                if not self._state.draining_cause and any(each.live for each in self._state.unearned()):
                    return True
                self._went_live.wait()
            return False

    def _asked(self) -> str | None:
        seen = self._answers
        with self._asking:
            if self._answers == seen:
                self._last_answer = self._ask_all()
                self._answers += 1
            return self._last_answer

    def _ask_all(self) -> str | None:
        state = self._state
        if state.any_ready():
            return None
        reasons = [self._ask(each) for each in state.unearned()]
        if not reasons:
            return _no_envoy(self._state)
        return None if None in reasons else reasons[0]

    def _ask(self, generation: Generation) -> str | None:
        number = generation.generation
        text = refusal(
            self._host,
            generation,
            alone=generation.epoch == 0 and len(self._state.alive) == 1,
            config_received=lambda: self.apply(lambda state: state.received_config(number)),
        )
        if text is None:
            self.apply(lambda state: state.earned(number))
            if self._state.find(number) is None:
                return _no_envoy(self._state)
        return text


def _no_envoy(state: Generations) -> str:
    return f"Envoy has ended: {state.last_exit}" if state.last_exit else "Envoy was not started yet"
