"""One turn of the machine: the state as it changes, and the actions as they add up."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from pilot_agent.envoy.model import Action, Clear, Generation, Log, Phase, Policy, State

TERM_GRACE_S: Final = 1.0
"""From SIGTERM to SIGKILL; an Envoy that can end does so in milliseconds."""

KILL_GRACE_S: Final = 5.0
"""From SIGTERM to SIGKILL for an old epoch, and how long the end after a SIGKILL is awaited."""


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait before the n-th attempt, in seconds, jitter included."""

    crash_s: Callable[[int], float]
    hot_restart_s: Callable[[int], float]


class Turn:
    """What the functions of `epochs` and `ending` work on; nothing of it is kept but the state."""

    def __init__(self, state: State, policy: Policy, now_s: float, waits: Waits) -> None:
        self.state, self.policy, self.now_s, self.waits = state, policy, now_s, waits
        self.actions: list[Action] = []

    def do(self, *actions: Action) -> None:
        self.actions.extend(actions)

    def info(self, text: str) -> None:
        self.do(Log(level="info", text=text))

    def warn(self, text: str) -> None:
        self.do(Log(level="warn", text=text))

    def error(self, text: str) -> None:
        self.do(Log(level="error", text=text))

    def change(self, **changes: Any) -> None:  # Any: the fields of State, checked by its constructor
        self.state = msgspec.structs.replace(self.state, **changes)

    def find(self, generation: int) -> Generation | None:
        return next((each for each in self.state.generations if each.generation == generation), None)

    def put(self, changed: Generation) -> None:
        """Add a generation, or keep it in its new state."""
        others = [each for each in self.state.generations if each.generation != changed.generation]
        self.change(generations=tuple(sorted((*others, changed), key=lambda each: each.generation)))

    def drop(self, gone: Generation) -> None:
        """Forget a generation and have its files removed."""
        rest = tuple(each for each in self.state.generations if each.generation != gone.generation)
        self.change(generations=rest)
        last = gone.base_id > 0 and all(each.base_id != gone.base_id for each in rest)
        self.do(Clear(generation=gone, base_id_is_free=last))

    @property
    def running(self) -> tuple[Generation, ...]:
        return tuple(each for each in self.state.generations if each.is_running)

    @property
    def serving(self) -> Generation | None:
        """Return the newest LIVE generation, else the newest one that runs."""
        live = [each for each in self.running if each.phase is Phase.LIVE]
        candidates = live or self.running
        return candidates[-1] if candidates else None
