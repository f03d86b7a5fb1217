"""EnvoyActor: owns the decisions about Envoy's life; the supervisor owns the process.

The decisions themselves are `pilot_agent.envoy.machine`: this actor turns messages into its events,
keeps its state in the notebook, and does what it says. Calls that may block run in threads of their
own, whose results come back through the mailbox.
"""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Final, assert_never

import msgspec

from actors.messages.cert import IdentityRotated
from actors.messages.control import (
    EndAgent,
    EnvoyEndNoted,
    EnvoyExited,
    EnvoyInventory,
    EnvoyProcess,
    EnvoySpawned,
    EnvoySpawnFailed,
    EnvoyStopped,
    PeerRestarted,
    Quit,
    RestartAsked,
    SignalEnvoy,
    SpawnEnvoy,
)
from actors.messages.envoy import Draining, EnvoyCommand, EpochExited, EpochLive, EpochsHeld, EpochStarted
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context, Timer
from actors.runtime.roles import Role
from pilot_agent.bootstrap import BootstrapOptions
from pilot_agent.envoy import EnvoyOptions, model
from pilot_agent.envoy.admin import Admin, AdminError
from pilot_agent.envoy.backoff import crash_wait_s, hot_restart_wait_s
from pilot_agent.envoy.ending import DRAIN_CALL_S
from pilot_agent.envoy.launch import FirstPrepared, Launchpad, process_arguments, recognized
from pilot_agent.envoy.live_watch import LiveWatch
from pilot_agent.envoy.machine import decide, next_wake_s
from pilot_agent.envoy.restarts import ROTATION_REASON
from pilot_agent.envoy.turn import Waits
from pilot_agent.log import get_logger

_log = get_logger()

_ASKED_TO_QUIT: Final = "/quitquitquit called"
_COUNT_CALL_S: Final = 2.0
_WAITS: Final = Waits(crash_s=crash_wait_s, hot_restart_s=hot_restart_wait_s)


class _WorkFailed(msgspec.Struct, frozen=True):
    """A thread of this actor met an error that nobody foresaw."""

    report: str


class EnvoyActor(RuntimeActor):
    """Starts, hot-restarts, drains and ends Envoy.

    Crash policy: its notebook has every generation with pid, base id and deadlines, so its successor takes
    up what lives and goes on with what was under way; no Envoy is restarted for that.
    """

    ends_by_itself = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options = context.settings(EnvoyOptions)
        self._bootstrap = context.settings(BootstrapOptions)
        self._launchpad = Launchpad(self._options, self._bootstrap)
        self._first = context.settings(FirstPrepared).prepared
        self._policy = _policy(self._options, hot_restart=self._launchpad.hot_restart)
        self._state = model.State()
        self._watches: dict[int, LiveWatch] = {}
        self._timer: Timer | None = None

    def on_message(self, message: object) -> None:  # noqa: C901, PLR0912  # one case a message
        match message:
            case EnvoyInventory():
                self._take_stock(message)
            case Quit():
                self._quit(
                    model.QuitWanted(
                        cause="signal received", at_once=message.again, within_s=message.deadline_s
                    )
                )
            case EnvoySpawned():
                process = message.process
                self._handle(
                    model.Spawned(
                        generation=process.generation, pid=process.pid, create_time=process.create_time
                    )
                )
            case EnvoySpawnFailed():
                self._handle(model.SpawnFailed(generation=message.generation, reason=message.reason))
            case EnvoyExited():
                self._note_end(message)
            case EnvoyStopped():
                self._handle(model.StopSeen(generation=message.process.generation, stopped=message.stopped))
            case RestartAsked():
                self._handle(model.RestartWanted(reason="signal"))
            case IdentityRotated():
                self._rotated(message)
            case EnvoyCommand():
                self._command(message)
            case PeerRestarted():
                if message.role == Role.HEALTH:
                    self._tell_held()
            case _WorkFailed():
                raise RuntimeError(message.report)
            case _:
                self._handle(_event(message))

    # --- messages -------------------------------------------------------------------------------

    def _take_stock(self, inventory: EnvoyInventory) -> None:
        """Begin, or go on where the incarnation before was killed. First message of every incarnation."""
        self.context.ready()
        if not self._options.enabled:
            return
        self._state = self.context.notebook.restore(model.State) or model.State()
        if self._launchpad.obstacle:
            self._say_no_hot_restart(self._launchpad.obstacle)
        is_first = self._state == model.State() and not inventory.alive and not inventory.ended
        if is_first:
            if self._first is None:
                self._launchpad.remove_remains()
            self._announce_pilot()
            self._handle(model.Begun())
            return
        for ended in inventory.ended:
            self._note_end(ended)
        self._handle(model.Found(running=tuple(map(self._recognized, inventory.alive))))
        self._tell_held()

    def _note_end(self, message: EnvoyExited) -> None:
        generation = message.process.generation
        if (watch := self._watches.pop(generation, None)) is not None:
            watch.end()
        self._handle(model.Exited(generation=generation, status=message.status))
        self.context.tell_supervisor(EnvoyEndNoted(generation=generation))

    def _rotated(self, message: IdentityRotated) -> None:
        if self._options.rotation_policy == "hot-restart":
            _log.info("workload certificate was rotated", reason=message.reason, serial=message.serial_number)
            self._handle(model.RestartWanted(reason=ROTATION_REASON))

    def _command(self, command: EnvoyCommand) -> None:
        match command.verb:
            case "drain":
                self._handle(model.DrainWanted())
            case "restart":
                self._handle(model.RestartWanted(reason="operator"))
            case "quit":
                self._quit(model.QuitWanted(cause=_ASKED_TO_QUIT, at_once=True))
            case _:
                assert_never(command.verb)

    def _quit(self, wish: model.QuitWanted) -> None:
        if self._options.enabled:
            self._handle(wish)
        else:
            self.context.tell_supervisor(EndAgent(reason=wish.cause, exit_status=0, for_good=True))

    # --- the machine ----------------------------------------------------------------------------

    def _handle(self, event: model.Event) -> None:
        """Let the machine decide, keep its state, then act: an action may be lost, a decision may not."""
        if not self._options.enabled:
            return
        before = self._state
        self._state, actions = decide(
            before, event, now_s=time.monotonic(), policy=self._policy, waits=_WAITS
        )
        if self._state != before:
            self.context.notebook.save(self._state)
        for action in actions:
            self._do(action)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due_s = next_wake_s(self._state)
        delay_s = max(due_s - time.monotonic(), 0.0)
        self._timer = None if due_s == model.NEVER else self.context.after(delay_s, model.Woken())

    def _do(self, action: model.Action) -> None:  # noqa: C901, PLR0912  # one case an action
        match action:
            case model.Prepare():
                self._prepare(action)
            case model.Spawn():
                self._spawn(action.generation)
            case model.Watch():
                self._watch(action.generation)
            case model.Signal():
                wish = SignalEnvoy(process=_process(action.generation), signal=action.signal)
                self.context.tell_supervisor(wish)
            case model.Clear():
                self._launchpad.clear(action.generation, base_id_is_free=action.base_id_is_free)
            case model.Drain():
                self._in_background(lambda: self._drained(action))
            case model.CountConnections():
                self._in_background(lambda: self._counted(action.admin_port))
            case model.Announce():
                self.context.send(Role.HEALTH, _announcement(action))
            case model.AnnounceDraining():
                self.context.send(Role.HEALTH, Draining(cause=action.cause))
            case model.Log():
                {"info": _log.info, "warn": _log.warn, "error": _log.error}[action.level](action.text)
            case model.Count():
                self.context.count(action.name, reason=action.reason)
            case model.EndAgent():
                self._launchpad.remove_own()
                self.context.tell_supervisor(
                    EndAgent(
                        reason=action.reason,
                        exit_status=action.exit_status,
                        for_good=action.reason == _ASKED_TO_QUIT,
                    )
                )
            case model.Fail():
                self.context.fatal(action.reason)
            case _:
                assert_never(action)

    # --- what it has done -----------------------------------------------------------------------

    def _prepare(self, action: model.Prepare) -> None:
        if action.validate:
            old = next((each for each in self._state.generations if each.is_running), None)
            pid = old.pid if old is not None else 0
            self._in_background(
                lambda: self._launchpad.prepare(action.generation, validate=True, running_pid=pid)
            )
            return
        done = self._first
        if done is None or done.generation != action.generation.generation:
            done = self._launchpad.prepare(action.generation, validate=False)
        if action.generation.generation == 0 and not done.refusal:
            _log.info("Starting proxy agent")
        self.context.tell_self(done)

    def _spawn(self, wanted: model.Generation) -> None:
        launch = self._launchpad.launch(wanted)
        _log.info(f"Envoy command: [{' '.join(launch.argv[1:])}]")
        self.context.tell_supervisor(
            SpawnEnvoy(
                generation=wanted.generation,
                argv=launch.argv,
                environment=launch.environment,
                uid=self._options.uid,
                gid=self._options.gid,
            )
        )

    def _watch(self, generation: model.Generation) -> None:
        watch = LiveWatch(self._admin(generation.admin_port), generation)
        self._watches[generation.generation] = watch
        self._in_background(watch.run)

    def _drained(self, action: model.Drain) -> model.Event:
        if (old := action.past_admin) is not None and (new := action.successor) is not None:
            from pilot_agent.envoy.overlap import Overlap  # noqa: PLC0415  # rarely needed

            overlap = Overlap.begin(self._launchpad.shared_files, self._admin(new.admin_port), old, new)
            self._in_background(overlap.end)  # which the old Envoy has to close its sockets for
        error = ""
        try:
            self._admin(action.admin_port).drain_listeners(
                inbound_only=action.inbound_only, skip_exit=action.skip_exit, timeout_s=DRAIN_CALL_S
            )
        except AdminError as failure:
            error = str(failure)
            if old is not None and old.base_id:
                error = self._launchpad.shared_files.ask_to_drain(old.base_id, old.epoch)
        return model.DrainAnswered(admin_port=action.admin_port, error=error)

    def _counted(self, admin_port: int) -> model.Event:
        try:
            active = self._admin(admin_port).active_connections(
                own_ports=self._options.own_ports, timeout_s=_COUNT_CALL_S
            )
        except AdminError as error:
            return model.ConnectionsCounted(error=str(error))
        return model.ConnectionsCounted(active=active)

    def _in_background(self, work: Callable[[], model.Event | None]) -> None:
        def run() -> None:
            try:
                done: object = work()
            except Exception:  # noqa: BLE001  # the actor's process ends with it, as for its own errors
                done = _WorkFailed(traceback.format_exc())
            if done is not None:
                self.context.tell_self(done)

        threading.Thread(target=run, name="envoy-work", daemon=True).start()

    def _admin(self, port: int) -> Admin:
        return Admin(host=self._options.admin_host, port=port)

    # --- who is told ----------------------------------------------------------------------------

    def _announce_pilot(self) -> None:
        _log.info(f"Pilot SAN: [{' '.join(self._bootstrap.agent.pilot_san)}]")

    def _say_no_hot_restart(self, obstacle: str) -> None:
        if self.context.incarnation == 1:
            _log.warn(
                f"hot restart is not possible, rotated certificates are pushed over SDS alone: {obstacle}"
            )
            self.context.count("hot_restart_refused", reason="unusable")

    def _tell_held(self) -> None:
        running = [each for each in self._state.generations if each.is_running]
        held = EpochsHeld(
            started=tuple(map(_started, running)),
            live_generations=tuple(
                each.generation for each in running if each.phase in (model.Phase.LIVE, model.Phase.DRAINING)
            ),
            draining=self._state.ending is not None,
        )
        self.context.send(Role.HEALTH, held)

    def _recognized(self, process: EnvoyProcess) -> model.Generation:
        return recognized(
            process.generation,
            process.pid,
            process.create_time,
            process_arguments(process.pid),
            self._options.admin_port,
        )


def _policy(options: EnvoyOptions, *, hot_restart: bool) -> model.Policy:
    return model.Policy(
        hot_restart=hot_restart,
        restart_on_failure=options.restart_policy == "on-failure",
        admin_port=options.admin_port,
        inbound_only=options.inbound_only,
        parent_shutdown_s=options.parent_shutdown_s,
        termination_drain_s=options.termination_drain_s,
        minimum_drain_s=options.minimum_drain_s,
        exit_on_zero_active_connections=options.exit_on_zero_active_connections,
        crash_loop_status=options.crash_loop_status,
    )


def _event(message: object) -> model.Event:
    """Return what a thread or a timer of this actor reports.

    Raises:
        TypeError: it is none of ours (a programming error).
    """
    if isinstance(message, model.Event):
        return message
    raise TypeError(f"EnvoyActor got={type(message).__qualname__}, expected a message of its protocol")


def _process(generation: model.Generation) -> EnvoyProcess:
    return EnvoyProcess(
        generation=generation.generation, pid=generation.pid, create_time=generation.create_time
    )


def _started(generation: model.Generation) -> EpochStarted:
    return EpochStarted(
        generation=generation.generation,
        epoch=generation.epoch,
        pid=generation.pid,
        admin_port=generation.admin_port,
    )


def _announcement(action: model.Announce) -> EpochStarted | EpochLive | EpochExited:
    generation = action.generation
    if action.what == "started":
        return _started(generation)
    if action.what == "live":
        return EpochLive(generation=generation.generation, epoch=generation.epoch)
    return EpochExited(generation=generation.generation, epoch=generation.epoch, status=action.status)
