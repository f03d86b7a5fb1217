"""What the supervisor and its children say to each other over each incarnation's control channel."""

import msgspec


class Quit(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → any: end in order within `deadline_s`. Mirrors: `ctx.Done()`."""

    deadline_s: float
    again: bool = False  # asked for a second time: whoever waits for something waits no longer
    for_good: bool = False  # the agent was asked to end: the pod ends, and this container does not come back


class PeerRestarted(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → any: `role` lives again as `incarnation`; reconcile what both hold."""

    role: str
    incarnation: int


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → any, through the actor's mailbox: are you there? Reply: HeartbeatAnswered."""

    number: int


class HeartbeatAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """Any → supervisor: the mailbox is served; measured in the actor's own process."""

    number: int
    pss_bytes: int
    private_bytes: int
    descriptors: int
    threads: int
    mailbox_depth: int
    oldest_unfinished_s: float  # age of the oldest unfinished send or receive of the byte path
    counters: dict[str, float] = msgspec.field(default_factory=dict)  # of this incarnation
    gauges: dict[str, float] = msgspec.field(default_factory=dict)
    notes: dict[str, str] = msgspec.field(default_factory=dict)  # texts of the status page


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Any → supervisor: I serve. Up is not ready: the child itself says it."""


class Fatal(msgspec.Struct, frozen=True, kw_only=True):
    """Any → supervisor: the agent cannot work as configured; it ends with `exit_status`."""

    reason: str
    exit_status: int = 255


class EndAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → supervisor: Envoy's life is over by plan; end everything with `exit_status`."""

    reason: str
    exit_status: int
    for_good: bool = False  # it was asked for, rather than brought about by Envoy's end


class RunWorker(msgspec.Struct, frozen=True, kw_only=True):
    """Any → supervisor: fork a worker of `kind`; its end of the socket comes beside this message."""

    worker_id: int
    kind: str
    timeout_s: float


class KeepDescriptors(msgspec.Struct, frozen=True, kw_only=True):
    """Any → supervisor: keep the descriptors beside this message for my successors.

    They take the place of those that were kept before.
    """


class LeaveEstate(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → an actor with clients: a successor takes your place; leave it their connections.

    Reply: Estate, after which this incarnation serves nobody and is ended.
    """

    patience_s: float  # for what is under way


class Estate(msgspec.Struct, frozen=True, kw_only=True):
    """Any → supervisor: what my successor alone goes on with, and the descriptors beside this message."""

    body: bytes


class StartActor(msgspec.Struct, frozen=True, kw_only=True):
    """Any → supervisor: start an actor that was left out at the agent's start; harmless when it runs."""

    role: str


class WorkerExited(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → any: the worker that you asked for has ended."""

    worker_id: int
    status: int  # wait status as in os.waitpid


class SpawnEnvoy(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → supervisor: start this Envoy as your child. Mirrors: `exec.Cmd.Start`.

    The supervisor waits with it until the servers that Envoy needs are Ready. Reply: EnvoySpawned
    or EnvoySpawnFailed with the same `generation`.
    """

    generation: int
    argv: tuple[str, ...]  # argv[0] is the program, no search path
    environment: dict[str, str]
    uid: int = -1  # -1: the agent's own
    gid: int = -1


class EnvoyProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One Envoy that the supervisor started; pid and create_time together name it for ever."""

    generation: int
    pid: int
    create_time: float  # seconds since the epoch, as psutil.Process.create_time()


class EnvoySpawned(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → Envoy: it runs."""

    process: EnvoyProcess


class EnvoySpawnFailed(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → Envoy: it could not be executed."""

    generation: int
    reason: str  # "fork/exec PATH: no such file or directory"


class EnvoyExited(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → Envoy: it has ended; said again to a restarted EnvoyActor. Mirrors: `cmd.Wait()`."""

    process: EnvoyProcess
    status: int  # wait status as in os.waitpid


class EnvoyStopped(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → Envoy: it got SIGSTOP (or went on, with `stopped` false)."""

    process: EnvoyProcess
    stopped: bool


class EnvoyInventory(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → Envoy, first message of every incarnation: the Envoys there are, and unread ends."""

    alive: tuple[EnvoyProcess, ...]
    ended: tuple[EnvoyExited, ...]


class EnvoyEndNoted(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → supervisor: the end of this generation is in my notebook; forget it."""

    generation: int


class SignalEnvoy(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → supervisor: send `signal` to this very process, if it still is that one."""

    process: EnvoyProcess
    signal: int


class RestartAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → Envoy: an operator sent SIGHUP; start a new epoch."""


class ActorState(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor knows of one actor, for the status page."""

    role: str
    pid: int
    incarnation: int
    restarts: int
    ready: bool
    heartbeat_age_s: float
    pss_bytes: int
    private_bytes: int
    descriptors: int
    threads: int
    mailbox_depth: int
    counters: dict[str, float] = msgspec.field(default_factory=dict)  # of all incarnations together
    gauges: dict[str, float] = msgspec.field(default_factory=dict)  # of the living one
    notes: dict[str, str] = msgspec.field(default_factory=dict)  # the newest of each name
    last_end: str = ""  # how the incarnation before ended, in words
    last_end_unix_s: float = 0.0


class TreeState(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor → Health, with every heartbeat: the whole tree."""

    actors: tuple[ActorState, ...]
    supervisor_pss_bytes: int
