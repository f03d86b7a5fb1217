"""The supervisor: one thread, parent of every actor, worker and Envoy; process 1 of the container.

It reads as: start from first to last, watch, restart what died or hangs, end from last to first. It
decides nothing about Envoy or certificates; it never gives the tree up because one part crash-loops,
since Envoy may be serving.
"""

import enum
import gc
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from actors.messages import control as said
from actors.runtime import adoption, handover, held_back, process
from actors.runtime.backoff import LIVED_WELL_S, restart_delay_s
from actors.runtime.births import Births
from actors.runtime.family import Child, Running
from actors.runtime.first_envoy import FirstEnvoy
from actors.runtime.handover import Handover, Launch, Life
from actors.runtime.held_back import HeldBack
from actors.runtime.loop import Loop
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import ChildSpec
from actors.runtime.takedown import Takedown
from actors.runtime.upgrade import UPGRADED, Upgrade
from actors.runtime.watch import Watch
from actors.runtime.worker_forks import WorkerForks
from actors.runtime.workers import Prestarted
from pilot_agent.log import get_logger
from pilot_agent.service_manager import ServiceManager

_log = get_logger()

_REST_WAITS_S: Final = 0.1
_ESTATE_S: Final = 1.0
"""The actors that Envoy does not wait for are not kept waiting longer than this for Envoy."""

_SAME_SIGNAL_S: Final = 1.0
"""Signals that come so close together are one wish: wrappers forward what the process group had already."""
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
        first_envoy: FirstEnvoy | None = None,
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
            first_envoy: The Envoy that was spawned before, and what it connects to.
        """
        self._taken = life.taken if life is not None else None
        self._family = adoption.family(specs, self._taken)
        self._workers = WorkerForks(workers, prestarted, adoption.workers(self._taken))
        self._births = Births(adoption.channels(self._taken), settings, kept, self._workers.waiting)
        self._envoys = adoption.envoys(self._taken)
        self._held_back = HeldBack(self._envoys, envoy_after, self._is_ready)
        self._fatal_of_envoy: said.Fatal | None = None
        self._left_out = set(left_out)
        if first_envoy is not None:
            self._envoys.take_in(first_envoy.pid, first_envoy.generation)
            for role, descriptors in first_envoy.listeners.items():
                self._family[role].hand_down(descriptors)
        self._service_manager = service_manager or ServiceManager()
        self._loop = Loop()
        self._phase = Phase.RUNNING
        self._exit_status = 0
        self._end_began_s = 0.0
        self._for_good = False  # the end was asked for: nothing is kept for a next start
        self._watch_over = Watch(
            self._family,
            left_out=self._left_out,
            loop=self._loop,
            say=self._say,
            service_manager=self._service_manager,
        )
        self._takedown = Takedown(
            self._family, self._envoys, loop=self._loop, say=self._say, done=self._has_ended
        )
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
        gc.freeze()  # the collector's marks would unshare the pages that the children inherit
        gc.enable()  # there is next to no garbage of the imports, and to look for it would cost 12 ms
        awaits_envoy = not self._envoys.any_alive()
        for child in self._family.values():
            if child.running is not None:
                self._watch(child, child.running)  # of the version before
                self._left_out.discard(child.spec.role)
            elif child.spec.role not in self._left_out and not (awaits_envoy and child.spec.after_envoy):
                self._start(child)
        self._loop.after(_REST_WAITS_S, self._start_the_rest)
        if self._upgrade is not None:
            self._upgrade.renew()
        self._reap()  # what ended before SIGCHLD was listened to
        self._watch_over.begin()
        while self._phase is not Phase.ENDED:
            self._loop.turn()
        return self._exit_status

    # --- starting -------------------------------------------------------------------------------

    def _start(self, child: Child) -> None:
        if self._phase >= Phase.QUITTING or child.running is not None:
            return
        try:
            running = self._births.fork(child)
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

    def _start_the_rest(self) -> None:
        """Start the actors that have not been started yet: Envoy is spawned, or takes its time."""
        for child in self._family.values():
            if child.incarnation == 0 and child.spec.role not in self._left_out:
                self._start(child)
        self._workers.forget_waiting()

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
            case said.Estate():
                child.inherit((message.body, descriptors))
                self._end_of_old(child, running)
                return True
            case said.StartActor():
                self._start_left_out(message.role)
            case said.SpawnEnvoy() | said.SignalEnvoy() | said.EnvoyEndNoted():
                self._take_of_envoy(message)
            case said.Fatal():
                self._fatal(child, message)
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
                self._held_back.add(message)
                self._spawn_held_back()
                self._loop.after(held_back.WAITS_S, lambda: self._spawn_held_back(waited=True))
            case said.SignalEnvoy():
                self._envoys.signal(message.process, message.signal)
            case said.EnvoyEndNoted():
                self._envoys.end_noted(message.generation)

    def _is_up(self, child: Child, running: Running) -> None:
        running.ready = True
        if child.incarnation > 1:
            _log.info(f"actor {child.spec.role} is ready again", restarts=child.incarnation - 1)
        self._spawn_held_back()
        if self._fatal_of_envoy is not None and not self._held_back.missing():
            self._end_because_of(self._fatal_of_envoy)

    def _fatal(self, child: Child, message: said.Fatal) -> None:
        """End the agent; what Envoy connects to starts before it, and its trouble is told before Envoy's."""
        if child.spec.role is Role.ENVOY and self._held_back.missing():
            self._fatal_of_envoy = message
            self._loop.after(held_back.WAITS_S, lambda: self._end_because_of(message))
        else:
            self._end_because_of(message)

    def _end_because_of(self, message: said.Fatal) -> None:
        if self._phase >= Phase.QUITTING:
            _log.debug(f"also: {message.reason}")  # what ended the agent has been said; this follows from it
            return
        _log.error(message.reason)
        sys.stderr.write(f"Error: {message.reason}\n")
        self._quit_actors(message.exit_status)

    def _run_worker(self, child: Child, wish: said.RunWorker, descriptor: int) -> None:
        problem = self._workers.fork(child.spec.role, wish, descriptor)
        if problem:
            _log.error(problem)
            self._say(child, said.WorkerExited(worker_id=wish.worker_id, status=1 << 8))

    def _spawn_held_back(self, *, waited: bool = False) -> None:
        """Spawn the Envoys that were asked for, once it is time; when the agent ends there are no more."""
        if self._phase >= Phase.ENVOY_ENDING:
            self._envoys.end_unclaimed()
            replies: Sequence[object] = self._held_back.refuse_all("the agent is ending")
        else:
            replies = self._held_back.spawn(waited=waited)
        for reply in replies:
            self._say(self._family[Role.ENVOY], reply)
        if replies:
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
        elif (worker_end := self._workers.ended(pid, status)) is not None:
            asker, event = worker_end
            self._say(self._family[asker], event)
        elif self._upgrade is not None and self._upgrade.ended(pid, status):
            return
        elif self._envoys.find(pid) is not None:
            ended = self._envoys.exited(pid, status)
            if ended is not None and (envoy := self._family.get(Role.ENVOY)) is not None:
                self._say(envoy, ended)
        else:
            _log.debug(f"reaped process {pid} of somebody else", status=status)  # we may be process 1

    def _stopped_or_continued(self, pid: int, *, stopped: bool) -> None:
        self._watch_over.stopped_or_continued(pid, stopped=stopped)
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
            self._takedown.go_on()
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
        delay_s = restart_delay_s(child.failures, lived_s)
        cause = ended.killed_because or process.status_in_words(status)
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

    # --- the upgrade: what actors.runtime.upgrade asks for ---------------------------------------

    def replace(self, child: Child, *, asks_estate: bool) -> None:
        """End an actor of the version before; it lives again at once, where it was if it leaves an estate."""
        running = child.running
        assert running is not None
        if not (asks_estate and child.spec.leaves_estate):
            self._end_of_old(child, running)
            return
        self._say(child, said.LeaveEstate(patience_s=_ESTATE_S))
        self._loop.after(2 * _ESTATE_S, lambda: self._end_of_old(child, running))

    @staticmethod
    def _end_of_old(child: Child, running: Running) -> None:
        if child.running is running and running.killed_because is None:
            running.killed_because = UPGRADED
            os.kill(running.pid, signal.SIGKILL)

    def why_no_upgrade(self) -> str:
        """Return why the agent cannot become another version now, "" if it can."""
        if self._phase is not Phase.RUNNING:
            return "the agent is ending"
        if self._held_back or self._workers.any_waiting():
            return "the agent is starting"
        for role, child in self._family.items():
            if role not in self._left_out and (child.running is None or not child.running.ready):
                return f"actor {role} is not Ready"
        return ""

    def hand_over(self, back: Launch | None, reason: str) -> Handover:
        """Return all that the next version has to know."""
        return adoption.hand_over(
            self._family,
            self._births.channels,
            self._envoys.inventory(),
            self._workers.inventory(),
            self._births.kept,
            (back, reason),
        )

    # --- the end --------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        match number:
            case signal.SIGCHLD:
                self._reap()
            case signal.SIGHUP if not process.leads_a_terminal():
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
        self._envoys.end_unclaimed()  # here: EnvoyActor clears up behind it, and does not know it
        self._service_manager.ending()
        self._say(envoy, said.Quit(deadline_s=envoy.spec.quit_s))
        self._spawn_held_back()  # which are refused now

    def _quit_actors(self, exit_status: int) -> None:
        if self._phase >= Phase.QUITTING:
            return
        self._phase, self._exit_status = Phase.QUITTING, exit_status
        self._takedown.begin(for_good=self._for_good)

    def _has_ended(self) -> None:
        self._phase = Phase.ENDED
