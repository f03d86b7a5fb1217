"""The words in which Envoy's life is decided: what is so (State), what happened (Event), what to do (Action).

All of it is data. Times are seconds of the machine's monotonic clock, which goes on while an actor is
restarted, so a deadline that was noted still means the same moment.
"""

from enum import StrEnum
from typing import Final, Literal

import msgspec

NEVER: Final = float("inf")


class Phase(StrEnum):
    """How far one generation is; an ended one is no longer in the state."""

    PREPARING = "preparing"  # base id, bootstrap file, validation
    SPAWNING = "spawning"  # asked for, no pid yet
    INITIALIZING = "initializing"  # runs, not LIVE
    LIVE = "live"
    DRAINING = "draining"  # a newer one is LIVE; ends by itself, or at `due_s`


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One Envoy: its number never comes again in the agent's life, its epoch does with another base id."""

    generation: int
    epoch: int
    base_id: int  # 0: not drawn yet, or hot restart is off
    admin_port: int  # 0: a temporary free one, not chosen yet
    phase: Phase
    reason: str = ""  # why it was wanted; empty for the first
    replaces: int = -1  # the generation that it takes over from; -1: a cold start with nobody there
    bootstrap_path: str = ""
    pid: int = 0
    create_time: float = 0.0
    signal: int = 0  # the last one sent
    due_s: float = NEVER  # when the next signal is due
    stops: int = 0  # how often somebody stopped it (SIGSTOP)
    stopped_due_s: float = NEVER  # when a stopped one is to go on

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.pid > 0

    @property
    def is_hot(self) -> bool:
        """Whether it takes over sockets and statistics from its parent."""
        return self.epoch > 0


class Stage(StrEnum):
    """How far the agent's planned end is."""

    POSTING = "posting"  # the drain call is on its way
    WAITING = "waiting"  # terminationDrainDuration
    MINIMUM = "minimum"  # MINIMUM_DRAIN_DURATION
    POLLING = "polling"  # connections are counted every second
    TERMINATING = "terminating"  # SIGTERM sent
    KILLING = "killing"  # SIGKILL sent
    DONE = "done"


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's planned end."""

    cause: str
    stage: Stage
    until_s: float  # end of this stage
    limit_s: float = NEVER  # no drain goes on beyond it
    errors: int = 0  # failed counts of connections in a row
    exit_status: int = 0  # of the agent


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that EnvoyActor must not forget; kept in its notebook."""

    generations: tuple[Generation, ...] = ()  # oldest first
    next_generation: int = 0
    failed_hot: int = 0  # epochs that failed to start since the last success
    spoiled_base_id: int = 0  # no hot restart is tried with it any more
    wanted: str = ""  # why a restart is wanted that has not begun; rotations add up to one
    attempts: int = 0  # refused or failed restarts since the last success
    retry_at_s: float = NEVER
    crashes_s: tuple[float, ...] = ()  # when Envoy crashed, within the window
    failed_starts: int = 0  # crashes in a row before LIVE
    start_at_s: float = NEVER  # when a crashed Envoy is started again
    drained: bool = False  # by an operator; a quit has nothing to wait for
    ending: Ending | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine must know of the configuration."""

    hot_restart: bool
    restart_on_failure: bool = True
    admin_port: int = 15000
    inbound_only: bool = True
    parent_shutdown_s: float = 60.0
    termination_drain_s: float = 5.0
    minimum_drain_s: float = 5.0
    exit_on_zero_active_connections: bool = False
    crash_budget: int = 10  # more crashes in the window are a crash loop
    quick_budget: int = 100  # so many crashes of LIVE Envoys in the window are answered without a wait
    crash_window_s: float = 300.0
    crash_loop_status: int = 0  # the agent's exit status when the budget is used up; 0: it goes on trying


# Events: what happened.


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """The agent starts: there is no Envoy yet."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """EnvoyActor lives again: these generations have a process, the state is from the notebook."""

    running: tuple[Generation, ...]  # one that the state does not know is taken as it is


class Woken(msgspec.Struct, frozen=True, kw_only=True):
    """A moment that was waited for may be there."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a generation are in place, or there is a refusal: the whole text of an error."""

    generation: int
    base_id: int = 0
    admin_port: int = 0
    bootstrap_path: str = ""
    refusal: str = ""
    refused_for: Literal["refused", "memory", "spoiled"] = "refused"


class Spawned(msgspec.Struct, frozen=True, kw_only=True):
    generation: int
    pid: int
    create_time: float


class SpawnFailed(msgspec.Struct, frozen=True, kw_only=True):
    generation: int
    reason: str


class SeenLive(msgspec.Struct, frozen=True, kw_only=True):
    generation: int


class Exited(msgspec.Struct, frozen=True, kw_only=True):
    generation: int
    status: int | None  # wait status; None: nobody saw it


class StopSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody stopped an Envoy (SIGSTOP), or let it go on."""

    generation: int
    stopped: bool


class RestartWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A new epoch is wanted: `rotation`, `signal`, `operator`, `admin_port`."""

    reason: str


class DrainWanted(msgspec.Struct, frozen=True, kw_only=True):
    """An operator wants the listeners drained and Envoy kept."""


class QuitWanted(msgspec.Struct, frozen=True, kw_only=True):
    """The agent is to end."""

    cause: str
    at_once: bool = False  # without a drain
    within_s: float = NEVER


class DrainAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """The drain call came back."""

    admin_port: int = 0
    error: str = ""


class ConnectionsCounted(msgspec.Struct, frozen=True, kw_only=True):
    """An answer about active connections."""

    active: int | None = None  # None without an error: Envoy has no such statistics
    error: str = ""


Event = (
    Begun
    | Found
    | Woken
    | Prepared
    | Spawned
    | SpawnFailed
    | SeenLive
    | Exited
    | StopSeen
    | RestartWanted
    | DrainWanted
    | QuitWanted
    | DrainAnswered
    | ConnectionsCounted
)


# Actions: what to do, in this order.


class Prepare(msgspec.Struct, frozen=True, kw_only=True):
    """Draw a base id where it is 0 and needed, choose the admin port where it is 0, write the bootstrap.

    With `validate` Envoy is asked first whether it would start, and the machine whether it can bear a second
    one: any reason against it comes back as `Prepared.refusal`.
    """

    generation: Generation
    validate: bool


class Spawn(msgspec.Struct, frozen=True, kw_only=True):
    generation: Generation


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """Ask its admin port until it is LIVE."""

    generation: Generation


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    generation: Generation
    signal: int


class Clear(msgspec.Struct, frozen=True, kw_only=True):
    """Remove the files of a generation that is no more; those of its base id too where it was the last."""

    generation: Generation
    base_id_is_free: bool


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """Call drain_listeners; reply: DrainAnswered.

    With `past_admin` a generation whose admin port is gone is told over its hot-restart socket; with
    `successor`, which listens beside it, new connections are first made to go there.
    """

    admin_port: int
    past_admin: Generation | None = None
    successor: Generation | None = None
    inbound_only: bool
    skip_exit: bool


class CountConnections(msgspec.Struct, frozen=True, kw_only=True):
    """Reply: ConnectionsCounted."""

    admin_port: int


class Announce(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the others what became of a generation."""

    what: Literal["started", "live", "exited"]
    generation: Generation
    status: str = ""


class AnnounceDraining(msgspec.Struct, frozen=True, kw_only=True):
    cause: str


class Log(msgspec.Struct, frozen=True, kw_only=True):
    level: Literal["info", "warn", "error"]
    text: str


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Add one to a counter; the label is always `reason`."""

    name: str
    reason: str


class EndAgent(msgspec.Struct, frozen=True, kw_only=True):
    reason: str
    exit_status: int


class Fail(msgspec.Struct, frozen=True, kw_only=True):
    """The agent cannot work as configured."""

    reason: str


Action = (
    Prepare
    | Spawn
    | Watch
    | Signal
    | Clear
    | Drain
    | CountConnections
    | Announce
    | AnnounceDraining
    | Log
    | Count
    | EndAgent
    | Fail
)
