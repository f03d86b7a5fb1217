"""Whatever happens in whatever order: what must always hold in a life of Envoy."""

from signal import SIGKILL

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pilot_agent.envoy.model import (
    NEVER,
    Begun,
    Clear,
    ConnectionsCounted,
    CountConnections,
    Drain,
    DrainAnswered,
    DrainWanted,
    EndAgent,
    Event,
    Exited,
    Found,
    Generation,
    Phase,
    Policy,
    Prepare,
    Prepared,
    QuitWanted,
    RestartWanted,
    SeenLive,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    Watch,
)
from tests.support.envoy_life import EXIT_0, EXIT_1, KILLED, Life

STATUSES = st.sampled_from([EXIT_0, EXIT_1, KILLED, None])


class AnyLife(RuleBasedStateMachine):
    """The machine in a small world: what it asks for is done some time later, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()
        self.preparing: list[Generation] = []
        self.spawning: list[Generation] = []
        self.watched: list[Generation] = []
        self.processes: dict[int, Generation] = {}
        self.signalled: set[int] = set()
        self.calls: list[Drain | CountConnections] = []
        self.seen: list[int] = []
        self.freed: list[int] = []
        self.drawn = 0
        self.is_over = False
        self.quit = False

    @initialize(hot_restart=st.booleans(), restarts=st.booleans(), waits_for_connections=st.booleans())
    def begin(self, hot_restart: bool, restarts: bool, waits_for_connections: bool) -> None:
        self.life.policy = Policy(
            hot_restart=hot_restart,
            restart_on_failure=restarts,
            exit_on_zero_active_connections=waits_for_connections,
        )
        self._on(Begun())

    # What may happen.

    @precondition(lambda self: self.preparing)
    @rule(refused=st.sampled_from([False, False, False, True]))
    def prepared(self, refused: bool) -> None:
        wanted = self.preparing.pop(0)
        refused = refused and wanted.generation > 0  # at the very first start it is fatal: another test
        base_id = wanted.base_id
        if self.life.policy.hot_restart and not base_id:
            self.drawn += 1
            base_id = self.drawn
        self._on(
            Prepared(
                generation=wanted.generation,
                base_id=base_id,
                admin_port=wanted.admin_port or 40000,
                bootstrap_path="x",
                refusal="no" if refused else "",
            )
        )

    @precondition(lambda self: self.spawning)
    @rule(fails=st.sampled_from([False, False, False, False, True]))
    def spawned(self, fails: bool) -> None:
        wanted = self.spawning.pop(0)
        number = wanted.generation
        if fails:
            self._on(SpawnFailed(generation=number, reason="fork/exec"))
            return
        self.processes[number] = wanted
        self._on(Spawned(generation=number, pid=100 + number, create_time=1.0))

    @precondition(lambda self: self.watched)
    @rule()
    def seen_live(self) -> None:
        self._on(SeenLive(generation=self.watched.pop(0).generation))

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), status=STATUSES)
    def exited(self, data: st.DataObject, status: int | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.processes)))
        self._end(number, status)

    @precondition(lambda self: self.signalled)
    @rule()
    def signal_works(self) -> None:
        self._end(min(self.signalled), EXIT_0)

    @precondition(lambda self: self.calls)
    @rule(fails=st.booleans(), active=st.sampled_from([None, 0, 0, 3]))
    def answered(self, fails: bool, active: int | None) -> None:
        error = "refused" if fails else ""
        if isinstance(self.calls.pop(0), Drain):
            self._on(DrainAnswered(error=error))
        else:
            self._on(ConnectionsCounted(active=None if fails else active, error=error))

    @rule(reason=st.sampled_from(["rotation", "signal"]))
    def restart_wanted(self, reason: str) -> None:
        self._on(RestartWanted(reason=reason))

    @rule(seconds=st.sampled_from([0.3, 2.0, 12.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.life.sleep(seconds)
        self._do()

    @rule()
    def actor_is_restarted(self) -> None:
        self.preparing, self.spawning, self.watched, self.calls = [], [], [], []
        running = tuple(
            Life()
            .live()[0]
            .__class__(
                generation=each.generation,
                epoch=each.epoch,
                base_id=each.base_id,
                admin_port=each.admin_port,
                phase=Phase.INITIALIZING,
                pid=100 + each.generation,
                create_time=1.0,
            )
            for each in self.processes.values()
        )
        self._on(Found(running=running))

    @rule(at_once=st.sampled_from([False, False, True]), bored=st.sampled_from([False, False, False, True]))
    def quit_wanted(self, at_once: bool, bored: bool) -> None:
        if bored:  # seldom: most of a life is not its end
            self.quit = True
            self._on(QuitWanted(cause="signal", at_once=at_once))

    @rule(bored=st.sampled_from([False, False, False, False, True]))
    def drain_wanted(self, bored: bool) -> None:
        if bored:
            self._on(DrainWanted())

    # What must hold.

    @invariant()
    def never_more_than_two_envoys(self) -> None:
        assert len(self.life.state.generations) <= 2
        assert len([each for each in self.processes if each not in self.signalled]) <= 2

    @invariant()
    def at_most_one_is_live(self) -> None:
        phases = list(self.life.phases.values())
        assert phases.count(Phase.LIVE) <= 1

    @invariant()
    def no_generation_comes_twice(self) -> None:
        assert self.seen == sorted(set(self.seen))

    @invariant()
    def a_base_id_is_cleared_once_and_never_while_it_is_used(self) -> None:
        used = {each.base_id for each in self.life.state.generations} - {0}
        assert not used & set(self.freed)
        assert len(self.freed) == len(set(self.freed))

    @invariant()
    def while_the_agent_lives_there_is_an_envoy_or_one_is_to_come(self) -> None:
        state = self.life.state
        if state.next_generation and not self.is_over:
            to_come = state.start_at_s != NEVER or state.ending is not None
            assert state.generations or to_come

    def teardown(self) -> None:
        """Whatever was before: a quit ends the agent and leaves no Envoy."""
        if not self.life.state.next_generation:
            return
        self.quit_wanted(at_once=False, bored=True)
        for _ in range(40):
            for late in list(self.spawning):
                self.processes[late.generation] = late
                self.spawning.remove(late)
                self._on(Spawned(generation=late.generation, pid=100 + late.generation, create_time=1.0))
            while self.calls:
                self.answered(fails=False, active=0)
            while self.signalled:
                self.signal_works()
            self.time_passes(2.0)
        assert self.is_over
        assert self.processes == {}
        assert self.life.wakes_in_s == NEVER

    # The world.

    def _on(self, event: Event) -> None:
        self.life.on(event)
        self._do()

    def _do(self) -> None:
        for action in self.life.actions:
            match action:
                case Prepare():
                    assert not self.quit, "prepared after the quit"
                    self.preparing.append(action.generation)
                    if action.generation.generation not in self.seen:
                        self.seen.append(action.generation.generation)
                case Spawn():
                    assert not self.quit, "spawned after the quit"
                    self.spawning.append(action.generation)
                case Watch():
                    self.watched.append(action.generation)
                case Signal():
                    number = action.generation.generation
                    if number in self.processes:
                        self.signalled.add(number)
                        assert action.signal == SIGKILL or self.life.state.ending or self._is_old(number)
                case Drain() | CountConnections():
                    self.calls.append(action)
                case Clear():
                    if action.base_id_is_free:
                        self.freed.append(action.generation.base_id)
                case EndAgent():
                    self.is_over = True
                case _:
                    pass

    def _is_old(self, number: int) -> bool:
        return any(
            each.generation == number and each.phase is Phase.DRAINING for each in self.life.state.generations
        )

    def _end(self, number: int, status: int | None) -> None:
        self.processes.pop(number)
        self.signalled.discard(number)
        self.watched = [each for each in self.watched if each.generation != number]
        self._on(Exited(generation=number, status=status))


AnyLife.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestAnyLife = AnyLife.TestCase
