"""A life of Envoy for tests: the machine with a clock of its own, and the words to move it."""

from dataclasses import dataclass, field
from signal import SIGKILL, SIGTERM
from typing import TypeVar

from pilot_agent.envoy.machine import decide, next_wake_s
from pilot_agent.envoy.model import (
    NEVER,
    Action,
    Begun,
    Event,
    Exited,
    Generation,
    Log,
    Phase,
    Policy,
    Prepared,
    SeenLive,
    Signal,
    Spawned,
    State,
    Woken,
)
from pilot_agent.envoy.turn import Waits

A = TypeVar("A")

WAITS = Waits(crash_s=lambda attempt: 0.2 * 2 ** (attempt - 1), hot_restart_s=lambda attempt: 10.0 * attempt)
EXIT_0, EXIT_1, KILLED, TERMINATED = 0, 1 << 8, int(SIGKILL), int(SIGTERM)


@dataclass
class Life:
    policy: Policy = field(default_factory=lambda: Policy(hot_restart=True))
    state: State = field(default_factory=State)
    now_s: float = 1000.0
    actions: list[Action] = field(default_factory=list)  # of the last event

    def on(self, event: Event) -> "Life":
        self.state, actions = decide(self.state, event, now_s=self.now_s, policy=self.policy, waits=WAITS)
        self.actions = list(actions)
        return self

    def sleep(self, seconds: float) -> "Life":
        """Move the clock; the wakes that fall due are delivered, and their actions gathered."""
        end_s, gathered = self.now_s + seconds, list[Action]()
        while (due_s := next_wake_s(self.state)) <= end_s:
            self.now_s = max(self.now_s, due_s)
            gathered += self.on(Woken()).actions
        self.now_s, self.actions = end_s, gathered
        return self

    def prepare(self, generation: int) -> "Life":
        known = self[generation]
        return self.on(
            Prepared(
                generation=generation,
                base_id=known.base_id or (700 + generation if self.policy.hot_restart else 0),
                admin_port=known.admin_port or 40000 + generation,
                bootstrap_path=f"envoy-rev{generation}.json",
            )
        )

    def spawn(self, generation: int) -> "Life":
        return self.on(Spawned(generation=generation, pid=100 + generation, create_time=5.0 + generation))

    def start(self, generation: int = 0) -> "Life":
        if generation == 0:
            self.on(Begun())
        return self.prepare(generation).spawn(generation)

    def live(self, generation: int = 0) -> "Life":
        """Bring a generation that is wanted from its preparation to LIVE."""
        return self.start(generation).on(SeenLive(generation=generation))

    def end(self, generation: int, status: int | None) -> "Life":
        return self.on(Exited(generation=generation, status=status))

    def __getitem__(self, generation: int) -> Generation:
        return next(each for each in self.state.generations if each.generation == generation)

    @property
    def phases(self) -> dict[int, Phase]:
        return {each.generation: each.phase for each in self.state.generations}

    @property
    def wakes_in_s(self) -> float:
        due_s = next_wake_s(self.state)
        return NEVER if due_s == NEVER else round(due_s - self.now_s, 6)

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(each.level, each.text) for each in self.actions if isinstance(each, Log)]

    @property
    def signals(self) -> list[tuple[int, int]]:
        return [
            (each.generation.generation, each.signal) for each in self.actions if isinstance(each, Signal)
        ]

    def did(self, kind: type[A]) -> list[A]:
        return [each for each in self.actions if isinstance(each, kind)]
