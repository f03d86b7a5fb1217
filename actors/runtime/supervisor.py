"""The supervisor: one thread, parent of every actor, worker and Envoy; process 1 of the container.

It reads as: start from first to last, watch, restart what died or hangs, end from last to first. It
decides nothing about Envoy or certificates; it never gives the tree up because one part crash-loops,
since Envoy may be serving.
"""

import contextlib
import enum
import gc
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Final

import psutil

from actors.messages import control as said
from actors.runtime import adoption, handover, process, watchdog
from actors.runtime.backoff import LIVED_WELL_S, restart_delay_s
from actors.runtime.channels import seqpacket_pair
from actors.runtime.child import STACKS_SIGNAL, Birth, live
from actors.runtime.control import ControlEnd
from actors.runtime.family import Child, Running
from actors.runtime.handover import Handover, Launch, Life
from actors.runtime.loop import Loop
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import ChildSpec
from actors.runtime.upgrade import UPGRADED, Upgrade
from actors.runtime.workers import PRESTARTED_ID, Prestarted, serve_one
from pilot_agent.log import get_logger, sink_descriptors
from pilot_agent.service_manager import ServiceManager

_log = get_logger()

_ENVOY_WAITS_S: Final = 5.0
"""Envoy is not kept waiting longer than this for the servers that it needs: it retries by itself."""

_REST_WAITS_S: Final = 0.1
"""The actors that Envoy does not wait for are not kept waiting longer than this for Envoy."""

_STACKS_S: Final = 0.2
_SAME_SIGNAL_S: Final = 1.0
"""Signals that come so close together are one wish: wrappers forward what the process group had already."""
_ENVOY_TERM_S: Final = 1.0
_LAST_DEATHS: Final = 3


class Phase(enum.IntEnum):
    """Where the agent is in its life; it only grows."""

    RUNNING = 0
    ENVOY_ENDING = 1  # Quit is said to EnvoyActor; it drains, and everything else goes on
    QUITTING = 2  # the actors are taken down, last to first
    ENDED = 3


class Supervisor:
    """The tree of one agent. `run` returns its exit status."""

    def __init__(
        self,
        specs: Iterable[ChildSpec],
        *,
        settings: Settings,
        workers: Mapping[str, str],
        envoy_after: frozenset[Role],
        left_out: frozenset[Role] = frozenset(),
        kept: tuple[int, ...] = (),
        prestarted: tuple[Prestarted, ...] = (),
        service_manager: ServiceManager | None = None,
        life: Life | None = None,
    ) -> None:
        """Make all channels and notebooks, or take those of the version before.

        Args:
            specs: The table, in the order of the start.
            settings: What the actors find by type.
            workers: Kind of worker → its function, "module:name".
            envoy_after: Envoy is spawned when these actors are Ready (or after 5 s).
            left_out: These are not started until somebody asks for them (StartActor).
            kept: Descriptors that stand in the settings and that every actor inherits.
            prestarted: Workers that were forked before; the first actor that asks gets each.
            service_manager: Who is told that all actors are up, that this loop turns, and that the end comes.
            life: How this program was started; with it the agent can be upgraded.
        """
        self._taken = life.taken if life is not None else None
        self._family = adoption.family(specs, self._taken)
        self._channels = adoption.channels(self._taken)
        self._settings, self._workers, self._kept = settings, workers, kept
        self._envoy_after, self._envoys = envoy_after, adoption.envoys(self._taken)
        self._left_out = set(left_out)
        self._prestarted = {worker.kind: worker for worker in prestarted}
        self._worker_pids: dict[int, tuple[Role | None, int]] = {
            worker.pid: (None, PRESTARTED_ID) for worker in prestarted
        } | adoption.workers(self._taken)
        self._held_back: dict[int, said.SpawnEnvoy] = {}  # by generation: a restarted EnvoyActor asks again
        self._service_manager = service_manager or ServiceManager()
        self._loop = Loop()
        self._phase = Phase.RUNNING
        self._exit_status = 0
        self._end_began_s = 0.0
        self._for_good = False  # the end was asked for: nothing is kept for a next start
        self._quit_order: list[Role] = []
        self._last_look_s = time.monotonic()
        self._heartbeat = 0
        self._pid = os.getpid()
        self._upgrade = None if life is None else Upgrade(life, self._loop, self._family, self)

    def run(self) -> int:
        """Start everything and serve until the end; return the agent's exit status."""
        self._loop.on_signals(
            (
                signal.SIGTERM,
                signal.SIGINT,
                signal.SIGHUP,
                signal.SIGCHLD,
                signal.SIGQUIT,
                signal.SIGUSR2,
            ),
            self._on_signal,
        )
        handover.listen_again()
        gc.collect()
        gc.freeze()  # the collector's marks would unshare the pages that the children inherit
        for child in self._family.values():
            if child.running is not None:
                self._watch(child, child.running)  # of the version before
                self._left_out.discard(child.spec.role)
            elif not child.spec.after_envoy and child.spec.role not in self._left_out:
                self._start(child)
        self._loop.after(_REST_WAITS_S, self._start_the_rest)
        if self._upgrade is not None:
            self._upgrade.renew()
        self._reap()  # what ended before SIGCHLD was listened to
        self._look()
        self._beat()
        while self._phase is not Phase.ENDED:
            self._loop.turn()
        return self._exit_status

    # --- starting -------------------------------------------------------------------------------

    def _start(self, child: Child) -> None:
        if self._phase >= Phase.QUITTING or child.running is not None:
            return
        try:
            running = self._forked(child)
        except OSError as error:  # no descriptor, process or memory to be had: it is tried again for ever
            child.failures += 1
            delay_s = restart_delay_s(child.failures + 1)
            _log.error(f"actor {child.spec.role} cannot be started: {error}; again in {delay_s:.2f} s")
            self._loop.after(delay_s, lambda: self._start(child))
            return
        child.running = running
        self._watch(child, running)
        _log.debug(f"actor {child.spec.role} started", pid=running.pid, incarnation=child.incarnation)
        if child.spec.role is Role.ENVOY:
            self._say(child, self._envoys.inventory())
            if self._phase is Phase.ENVOY_ENDING:
                self._say(child, said.Quit(deadline_s=child.spec.quit_s))
        if child.incarnation > 1:
            for peer in self._family.values():
                if peer is not child:
                    self._say(peer, said.PeerRestarted(role=child.spec.role, incarnation=child.incarnation))

    def _watch(self, child: Child, running: Running) -> None:
        self._loop.on_readable(running.pidfd, self._reap)
        self._loop.on_readable(running.control.fileno(), lambda: self._read(child, running))

    def _forked(self, child: Child) -> Running:
        """Fork the next incarnation.

        Raises:
            OSError: something that it needs cannot be had; nothing is left of the attempt.
        """
        ours, theirs = seqpacket_pair()
        child.incarnation += 1
        birth = self._birth(child, theirs)  # here: a child that errs before `live` would be a supervisor
        try:
            pid = _fork()
            if pid == 0:
                live(birth)
        except OSError:
            child.incarnation -= 1
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        try:
            return Running(pid, os.pidfd_open(pid), ControlEnd(ours), time.monotonic())
        except OSError:
            os.kill(pid, signal.SIGKILL)  # reaped as one that nobody knows
            os.close(ours)
            raise

    def _birth(self, child: Child, control: int) -> Birth:
        role = child.spec.role
        early = [worker for worker in self._prestarted.values() if worker.pid in self._worker_pids]
        return Birth(
            spec=child.spec,
            incarnation=child.incarnation,
            parent_pid=self._pid,
            control=control,
            notebook=child.notebook,
            outbound=self._channels.outbound(role),
            inbound=self._channels.inbound(role),
            prestarted={w.kind: w.descriptor for w in early} if self._may_use_early(role, child) else {},
            kept=self._kept,
            handed_down=child.handed_down,
            settings=self._settings,
        )

    @staticmethod
    def _may_use_early(role: Role, child: Child) -> bool:
        """The workers that wait belong to the first CertActor; their socket has one reader."""
        return role is Role.CERT and child.incarnation == 1

    def _start_the_rest(self) -> None:
        """Start the actors that have not been started yet: Envoy is spawned, or takes its time."""
        for child in self._family.values():
            if child.incarnation == 0 and child.spec.role not in self._left_out:
                self._start(child)
        while self._prestarted:
            _, worker = self._prestarted.popitem()
            os.close(worker.descriptor)  # the first CertActor has it; its end must be the only one

    def _start_left_out(self, name: str) -> None:
        child = next((self._family[role] for role in self._left_out if role == name), None)
        if child is not None:
            self._left_out.discard(child.spec.role)
            _log.info(f"actor {name} is started: it was asked for")
            self._start(child)

    # --- what the actors say --------------------------------------------------------------------

    def _say(self, child: Child, message: object) -> None:
        running = child.running
        if running is None:
            return
        running.control.send(message)
        self._flush(running)

    def _flush(self, running: Running) -> None:
        left = running.control.flush()
        self._loop.on_writable(running.control.fileno(), (lambda: self._flush(running)) if left else None)

    def _read(self, child: Child, running: Running) -> None:
        for message, descriptors in running.control.messages():
            if not self._take(child, running, message, descriptors):
                for descriptor in descriptors:
                    os.close(descriptor)

    def _take(self, child: Child, running: Running, message: object, descriptors: tuple[int, ...]) -> bool:
        """Act on one message; return whether `descriptors` were taken over."""
        match message:
            case said.HeartbeatAnswered():
                child.answered(message, time.monotonic())
            case said.Ready():
                self._is_up(child, running)
            case said.RunWorker() if len(descriptors) == 1:
                self._run_worker(child, message, descriptors[0])
            case said.KeepDescriptors():
                child.hand_down(descriptors)
                return True
            case said.StartActor():
                self._start_left_out(message.role)
            case said.SpawnEnvoy() | said.SignalEnvoy() | said.EnvoyEndNoted():
                self._take_of_envoy(message)
            case said.Fatal():
                self._fatal(message)
            case said.EndAgent():
                _log.debug(f"ending: {message.reason}", status=message.exit_status)
                self._for_good = self._for_good or message.for_good
                self._quit_actors(message.exit_status)
            case _:
                _log.warn(
                    f"supervisor: {type(message).__name__} from {child.spec.role}: not understood, skipped"
                )
        return False

    def _take_of_envoy(self, message: said.SpawnEnvoy | said.SignalEnvoy | said.EnvoyEndNoted) -> None:
        match message:
            case said.SpawnEnvoy():
                self._held_back[message.generation] = message
                self._spawn_held_back()
                self._loop.after(_ENVOY_WAITS_S, lambda: self._spawn_held_back(waited=True))
            case said.SignalEnvoy():
                self._envoys.signal(message.process, message.signal)
            case said.EnvoyEndNoted():
                self._envoys.end_noted(message.generation)

    def _is_up(self, child: Child, running: Running) -> None:
        running.ready = True
        if child.incarnation > 1:
            _log.info(f"actor {child.spec.role} is ready again", restarts=child.incarnation - 1)
        self._spawn_held_back()

    def _fatal(self, message: said.Fatal) -> None:
        if self._phase >= Phase.QUITTING:
            _log.debug(f"also: {message.reason}")  # what ended the agent has been said; this follows from it
            return
        _log.error(message.reason)
        sys.stderr.write(f"Error: {message.reason}\n")
        self._quit_actors(message.exit_status)

    def _run_worker(self, child: Child, wish: said.RunWorker, descriptor: int) -> None:
        function = self._workers.get(wish.kind)
        pid, problem = -1, f"worker kind got={wish.kind} expected=one of {sorted(self._workers)}"
        if function is not None:
            try:
                pid = _fork()
            except OSError as error:
                problem = f"worker {wish.kind} cannot be started: {error}"
        if pid == 0:
            try:
                assert function is not None
                process.die_with_parent(self._pid)
                process.child_signals()
                process.close_all_but({descriptor, *sink_descriptors()})
                process.name_process(f"pa-work-{wish.kind}")
                process.keep_secrets()
                serve_one(descriptor, function, limit_s=wish.timeout_s)
            finally:
                os._exit(1)  # whatever went wrong: a child must not go on as a second supervisor
        if pid < 0:
            _log.error(problem)
            self._say(child, said.WorkerExited(worker_id=wish.worker_id, status=1 << 8))
            return
        self._worker_pids[pid] = (child.spec.role, wish.worker_id)

    def _spawn_held_back(self, *, waited: bool = False) -> None:
        """Spawn the Envoys that were asked for, once what they connect to is Ready."""
        ending = self._phase >= Phase.ENVOY_ENDING
        missing = [] if ending else [role for role in self._envoy_after if not self._is_ready(role)]
        if not self._held_back or (missing and not waited):
            return
        if missing:
            _log.warn(f"Envoy starts without {' and '.join(missing)} being ready")
        wishes, self._held_back = self._held_back, {}
        for wish in wishes.values():
            reply: object
            try:
                if ending:
                    raise OSError("the agent is ending")
                reply = said.EnvoySpawned(process=self._envoys.spawn(wish))
            except OSError as error:
                reply = said.EnvoySpawnFailed(generation=wish.generation, reason=str(error))
            self._say(self._family[Role.ENVOY], reply)
        self._start_the_rest()

    def _is_ready(self, role: Role) -> bool:
        child = self._family.get(role)
        return child is None or (child.running is not None and child.running.ready)

    # --- deaths ---------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                self._stopped_or_continued(pid, stopped=os.WIFSTOPPED(status))
            else:
                self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        child = next((c for c in self._family.values() if c.running and c.running.pid == pid), None)
        if child is not None:
            self._actor_ended(child, status)
        elif pid in self._worker_pids:
            role, worker_id = self._worker_pids.pop(pid)
            event = said.WorkerExited(worker_id=worker_id, status=status)
            self._say(self._family[role if role is not None else Role.CERT], event)
        elif self._upgrade is not None and self._upgrade.ended(pid, status):
            return
        elif self._envoys.find(pid) is not None:
            ended = self._envoys.exited(pid, status)
            if (envoy := self._family.get(Role.ENVOY)) is not None:
                self._say(envoy, ended)
        else:
            _log.debug(f"reaped process {pid} of somebody else", status=status)  # we may be process 1

    def _stopped_or_continued(self, pid: int, *, stopped: bool) -> None:
        for child in self._family.values():
            if child.running is not None and child.running.pid == pid:
                child.running.stopped_since_s = time.monotonic() if stopped else None
                self._loop.after(watchdog.STOPPED_FOR_S, self._judge)
        if (envoy := self._envoys.find(pid)) is not None:
            self._say(self._family[Role.ENVOY], said.EnvoyStopped(process=envoy, stopped=stopped))

    def _actor_ended(self, child: Child, status: int) -> None:
        assert child.running is not None
        self._read(child, child.running)  # its last words
        if child.running is None:
            return
        ended = child.ended()
        for descriptor in (ended.pidfd, ended.control.fileno()):
            self._loop.forget(descriptor)
        ended.close()
        if self._phase >= Phase.QUITTING:
            self._quit_next()
            return
        lived_s = time.monotonic() - ended.started_s
        child.failures = 1 if lived_s >= LIVED_WELL_S else child.failures + 1
        if ended.killed_because == UPGRADED:
            child.failures = 0
        if (
            self._phase is Phase.ENVOY_ENDING
            and child.spec.role is Role.ENVOY
            and child.failures > _LAST_DEATHS
        ):
            _log.error("actor envoy keeps dying while the agent ends: Envoy is ended without it")
            self._quit_actors(self._exit_status)
            return
        delay_s = restart_delay_s(child.failures)
        cause = ended.killed_because or _in_words(status)
        child.last_end, child.last_end_unix_s = cause, time.time()
        say = _log.warn if child.failures <= 1 else _log.error
        say(
            f"actor {child.spec.role} ended: {cause}; restarting in {delay_s:.2f} s",
            pid=ended.pid,
            restarts=child.incarnation,
        )
        if delay_s == 0.0:
            self._start(child)
        else:
            self._loop.after(delay_s, lambda: self._start(child))

    # --- the watchdog ---------------------------------------------------------------------------

    def _look(self) -> None:
        now_s = time.monotonic()
        away_s = watchdog.own_absence_s(self._last_look_s, now_s, watchdog.LOOK_EVERY_S)
        self._last_look_s = now_s
        if away_s:
            _log.info(f"the whole agent was frozen or suspended for {away_s:.1f} s: all clocks start anew")
        for child in self._family.values():
            if child.running is not None and child.running.asked_since_s is not None and away_s:
                child.running.asked_since_s = now_s
        self._judge()
        started = (child for role, child in self._family.items() if role not in self._left_out)
        self._service_manager.look(
            all_ready=all(child.running is not None and child.running.ready for child in started)
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
        now_s = time.monotonic()
        for child in self._family.values():
            if child.running is not None:
                if child.running.asked_since_s is None:
                    child.running.asked_since_s = now_s
                self._say(child, said.Heartbeat(number=self._heartbeat))
        if (health := self._family.get(Role.HEALTH)) is not None:
            self._say(health, self._tree_state(now_s))
        self._loop.after(watchdog.HEARTBEAT_EVERY_S, self._beat)

    def _tree_state(self, now_s: float) -> said.TreeState:
        pss, _ = process.memory()
        return said.TreeState(
            actors=tuple(
                child.state(now_s) for role, child in self._family.items() if role not in self._left_out
            ),
            supervisor_pss_bytes=pss,
        )

    # --- the upgrade: what actors.runtime.upgrade asks for ---------------------------------------

    def replace(self, child: Child) -> None:
        """End an actor of the version before; it lives again at once."""
        assert child.running is not None
        child.running.killed_because = UPGRADED
        os.kill(child.running.pid, signal.SIGKILL)

    def why_no_upgrade(self) -> str:
        """Return why the agent cannot become another version now, "" if it can."""
        if self._phase is not Phase.RUNNING:
            return "the agent is ending"
        if self._held_back or self._prestarted:
            return "the agent is starting"
        for role, child in self._family.items():
            if role not in self._left_out and (child.running is None or not child.running.ready):
                return f"actor {role} is not Ready"
        return ""

    def hand_over(self, back: Launch | None, reason: str) -> Handover:
        """Return all that the next version has to know."""
        workers = {pid: (role or Role.CERT, number) for pid, (role, number) in self._worker_pids.items()}
        return adoption.hand_over(
            self._family, self._channels, self._envoys.inventory(), workers, self._kept, (back, reason)
        )

    # --- the end --------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        match number:
            case signal.SIGCHLD:
                self._reap()
            case signal.SIGHUP if not _leads_a_terminal():
                self._restart_envoy()
            case signal.SIGUSR2:
                if self._upgrade is not None:
                    self._upgrade.wanted()
            case signal.SIGQUIT:
                os._exit(2)  # everything else ends with this process
            case _:
                self._begin_end()

    def _restart_envoy(self) -> None:
        if (envoy := self._family.get(Role.ENVOY)) is not None:
            self._say(envoy, said.RestartAsked())

    def _begin_end(self) -> None:
        envoy = self._family.get(Role.ENVOY)
        if self._phase >= Phase.QUITTING:
            return
        self._for_good = True
        if envoy is None:
            self._quit_actors(0)
            return
        if self._phase == Phase.ENVOY_ENDING:
            again = time.monotonic() - self._end_began_s >= _SAME_SIGNAL_S
            self._say(envoy, said.Quit(deadline_s=envoy.spec.quit_s, again=again))
            return
        self._phase, self._end_began_s = Phase.ENVOY_ENDING, time.monotonic()
        self._service_manager.ending()
        self._say(envoy, said.Quit(deadline_s=envoy.spec.quit_s))
        self._spawn_held_back()  # which are refused now

    def _quit_actors(self, exit_status: int) -> None:
        if self._phase >= Phase.QUITTING:
            return
        self._phase, self._exit_status = Phase.QUITTING, exit_status
        self._quit_order = list(reversed(self._family))
        if self._envoys.any_alive():
            self._envoys.signal_all(signal.SIGTERM)
            self._loop.after(_ENVOY_TERM_S, lambda: self._envoys.signal_all(signal.SIGKILL))
        self._quit_next()

    def _quit_next(self) -> None:
        """Ask the next actor to quit once the one before is gone; the last step waits for the Envoys."""
        while self._quit_order:
            child = self._family[self._quit_order[0]]
            if child.running is not None:
                self._ask_to_quit(child, child.running)
                return
            self._quit_order.pop(0)
        if self._envoys.any_alive():
            self._loop.after(0.02, self._quit_next)
            return
        self._phase = Phase.ENDED

    def _ask_to_quit(self, child: Child, running: Running) -> None:
        if running.killed_because is not None:
            return  # asked already, or dying
        running.killed_because = "quit"
        deadline_s = min(child.spec.quit_s, 5.0) if child.spec.ends_by_itself else child.spec.quit_s
        if child.spec.ends_by_itself:
            os.kill(running.pid, signal.SIGKILL)  # it has said that all is over, or cannot
        else:
            self._say(child, said.Quit(deadline_s=deadline_s, for_good=self._for_good))
            self._loop.after(deadline_s, lambda: self._kill_late(child, running))

    @staticmethod
    def _kill_late(child: Child, running: Running) -> None:
        if child.running is running:
            _log.warn(f"actor {child.spec.role} did not quit in time: killed", pid=running.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)


def _fork() -> int:
    """Fork, having looked that no other thread could hold a lock then."""
    if (threads := process.thread_count()) != 1:
        _log.error(f"fork with {threads} threads: the child may hang; expected 1")
    return os.fork()


def _private_bytes(pid: int) -> int:
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - info.shared)


def _leads_a_terminal() -> bool:
    """A session leader's SIGHUP means that its terminal is gone."""
    try:
        return os.getsid(0) == os.getpid() and os.isatty(0)
    except OSError:
        return False


def _in_words(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"{name} (out of memory?)" if name == "SIGKILL" else name
    return f"exit status {os.waitstatus_to_exitcode(status)}"
