"""HealthActor: is Envoy ready, is the application well, and the HTTP server that says so."""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from actors.asked_page import AskedPage
from actors.health_backend import HealthBackend
from actors.health_steps import EpochNews, step, told
from actors.messages.cert import RotateNow
from actors.messages.control import PeerRestarted, StartActor, TreeState
from actors.messages.dns import NameTableAsked, NameTableShown
from actors.messages.envoy import Draining, EnvoyCommand, EpochExited, EpochLive, EpochsHeld, EpochStarted
from actors.messages.health import NameTableReceived, WorkloadHealthy, WorkloadUnhealthy
from actors.messages.xds import ShowStreams, StreamsShown
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context
from actors.runtime.roles import Role
from actors.status_page import Situation, document, news
from actors.tree_page import status_samples, tree_samples, workload_ends_unix_s
from pilot_agent.environment import go_duration
from pilot_agent.health import HealthOptions
from pilot_agent.health.checker import Checker, Probe
from pilot_agent.health.decision import Facts, refusal
from pilot_agent.health.extra_checks import GrpcBootstrapCheck
from pilot_agent.health.generations import Generations
from pilot_agent.health.keeper import ReadinessKeeper
from pilot_agent.health.verdict import Verdict
from pilot_agent.log import get_logger
from pilot_agent.status import StatusListener, StatusOptions
from pilot_agent.status.counters import Counters
from pilot_agent.status.document import ProbeRow, StatusDocument
from pilot_agent.status.exposition import Sample
from pilot_agent.status.history import History
from pilot_agent.status.listener import adopt, listener_on, refuse_from_now_on
from pilot_agent.status.pages import Pages, Verb
from pilot_agent.status.process_metrics import seconds_since_start
from pilot_agent.status.server import StatusServer
from pilot_agent.version import build_info

_log = get_logger()
_check_log = get_logger("healthcheck")

_REOPEN_FIRST_S: Final = 1.0
_REOPEN_LAST_S: Final = 16.0


class HealthNotes(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives HealthActor."""

    generations: Generations = msgspec.field(default_factory=Generations)
    verdict: Verdict = msgspec.field(default_factory=Verdict)
    probing: bool = False  # the initial delay is over
    startup_s: float = 0.0  # the agent's start to its first readiness; 0.0: not ready yet
    name_table: bool = False  # the first one was received
    history: History = msgspec.field(default_factory=History)
    counters: dict[str, float] = msgspec.field(default_factory=dict)


class _VerdictReached(msgspec.Struct, frozen=True, kw_only=True):
    """Checker's thread → actor: a transition that istiod is to be told."""

    verdict: Verdict


class _Remember(msgspec.Struct, frozen=True, kw_only=True):
    """Any thread → actor: something worth keeping has changed."""


class _OpenPort(msgspec.Struct, frozen=True, kw_only=True):
    """To myself: try to open the status port, after `delay_s` of waiting."""

    delay_s: float


class HealthActor(RuntimeActor):
    """Reports the application's health, answers the status port, keeps who earned readiness.

    Crash policy: readiness, verdict and counters are in the notebook and the listening socket is
    inherited, so a probe at the moment of the crash waits a little instead of failing. A verdict stands
    until a restarted checker has measured another one.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options = context.settings(HealthOptions)
        notes = context.notebook.restore(HealthNotes) or HealthNotes()
        self._verdict, self._probing = notes.verdict.remembered(), notes.probing
        self._startup_s, self._startup_lock = notes.startup_s, threading.Lock()
        self._name_table = notes.name_table
        self._history, self._history_lock = notes.history, threading.Lock()
        self._said_ready: bool | None = None  # what the last event about readiness said
        first_number = context.incarnation << 32
        self._names = AskedPage(
            lambda number: context.send(Role.DNS, NameTableAsked(number=number)), first_number=first_number
        )
        self._xds = AskedPage(
            lambda number: context.send(Role.UPSTREAM_XDS, ShowStreams(number=number)),
            first_number=first_number,
        )
        self._counters = Counters(notes.counters)
        self._tree, self._tree_s = TreeState(actors=(), supervisor_pss_bytes=0), 0.0
        self._keeper = ReadinessKeeper(
            self._options.admin_host,
            notes.generations,
            self._generations_changed,
            ready_port=self._options.envoy_ready_port,
            needs_listeners=self._options.needs_listeners,
            certificate_expired=self._certificate_expired,
        )
        self._bootstrap = GrpcBootstrapCheck(
            self._options.grpc_bootstrap_path, beside_envoy=not self._options.envoy_disabled
        )
        self._listener = adopt(context.settings(StatusListener))
        self._server: StatusServer | None = None
        self._checker: Checker | None = None

    def on_start(self) -> None:
        self._begin("readiness", self._keeper.earn)
        self._begin_server()
        self._begin_checker()
        self.context.ready()

    def on_message(self, message: object) -> None:
        match message:
            case EpochStarted() | EpochLive() | EpochExited() | EpochsHeld() | Draining():
                self._epochs_changed(message)
            case TreeState():
                self._tree_came(message)
            case PeerRestarted():
                self._peer_restarted(message)
            case NameTableReceived():
                self._name_table = True
                self._remember()
            case NameTableShown():
                self._names.shown(message.number, message.body)
            case StreamsShown():
                self._xds.shown(message.number, message.body)
            case _OpenPort():
                self._open_port(message)
            case _VerdictReached():
                self._verdict_reached(message.verdict)
            case _Remember():
                self._remember()
            case _:
                _log.warn(f"health: unknown message {type(message).__name__}: ignored")

    def quit(self, deadline_s: float) -> None:
        del deadline_s  # nothing here takes time
        self._keeper.close()
        if self._checker is not None:
            self._checker.close()
        if self._server is not None:
            self._refuse_new()
            self._server.close()

    # Envoy's epochs

    def _epochs_changed(self, message: EpochNews) -> None:
        if isinstance(message, Draining) or (isinstance(message, EpochsHeld) and message.draining):
            self._drain(message)
        self._keeper.apply(functools.partial(step, message))
        self._tell_history(lambda history: told(message, history, time.time()))

    def _drain(self, message: Draining | EpochsHeld) -> None:
        if self._keeper.generations.draining_cause:
            return
        cause = message.cause if isinstance(message, Draining) else "the agent is ending"
        self._keeper.apply(lambda state: state.draining(cause))
        self._remember()  # first: a successor must not listen again
        self._refuse_new()

    def _refuse_new(self) -> None:
        listener, self._listener = self._listener, None  # so the server's thread sees that it may end
        if listener is not None:
            refuse_from_now_on(listener)
            listener.close()
            _log.info("Status server has successfully terminated")

    def _generations_changed(self, state: Generations) -> None:
        """Note the first readiness; called on whichever thread found it."""
        with self._startup_lock:
            first = state.any_ready() and not self._startup_s
            if first:
                self._startup_s = seconds_since_start(os.getppid())
        if first:
            _log.info(f"Readiness succeeded in {go_duration(self._startup_s)}")
        for each in state.earned_ones():
            generation = each.generation
            self._tell_history(lambda history, n=generation: history.earned(n, time.time()))  # type: ignore[misc]
        self.context.tell_self(_Remember())

    # The application

    def _begin_checker(self) -> None:
        settings = self._options.probe
        if self._options.ignored_probe:
            _check_log.warn("readinessProbe names no method (httpGet, tcpSocket, exec, grpc): ignored")
        if settings is None or settings.method is None:
            return
        from pilot_agent.health.probers import prober  # noqa: PLC0415  # most workloads have no such probe

        application = prober(
            settings.method,
            default_host=self._options.probe_host,
            source_address=self._options.source_address,
            timeout_s=settings.timeout_s,
        )
        probes: list[Probe] = [application]
        if not self._options.envoy_disabled:
            probes.insert(0, lambda: refusal(self._keeper.facts(latch=self._options.latch)))
        self._checker = Checker(settings, probes, self._verdict, self._tell_verdict)
        run = functools.partial(self._checker.run, initial_delay=not self._probing, began=self._probing_began)
        self._begin("checker", run)

    def _tell_verdict(self, verdict: Verdict) -> None:
        self.context.tell_self(_VerdictReached(verdict=verdict))

    def _probing_began(self) -> None:
        self._probing = True
        self.context.tell_self(_Remember())

    def _verdict_reached(self, verdict: Verdict) -> None:
        self._verdict = verdict
        text = f"the application is {verdict.health}{': ' if verdict.message else ''}{verdict.message}"
        level: Literal["info", "warn"] = "info" if verdict.health == "healthy" else "warn"
        self._tell_history(lambda history: history.with_event(time.time(), "workload", text, level))
        self._remember()
        self._report()

    def _report(self) -> None:
        match self._verdict.health:
            case "healthy":
                self.context.send(Role.UPSTREAM_XDS, WorkloadHealthy())
            case "unhealthy":
                self.context.send(Role.UPSTREAM_XDS, WorkloadUnhealthy(message=self._verdict.message))
            case "undefined":
                pass

    def _peer_restarted(self, message: PeerRestarted) -> None:
        if message.role == Role.UPSTREAM_XDS:
            self._report()  # EnvoyActor, on the other hand, tells what it holds by itself

    # The status port

    def _begin_server(self) -> None:
        if self._listener is None:
            self._open_port_later(_REOPEN_FIRST_S)
            return
        if self._keeper.generations.draining_cause:
            self._listener.close()  # our copy; nobody listens on it any more
            self._listener = None
            return
        backend = HealthBackend(
            not_ready=self._not_ready_because,
            carry_out=self._command,
            all_samples=self._samples,
            page=self._document,
            arguments=lambda: Path(f"/proc/{os.getppid()}/cmdline").read_bytes(),
            names=lambda: self._names.get() if self._name_table else b"",
            streams=self._xds.get,
            switch_dns_on=lambda: self.context.tell_supervisor(StartActor(role=Role.DNS)),
        )
        remember = functools.partial(self.context.tell_self, _Remember())
        pages = Pages(self.context.settings(StatusOptions), backend, self._counters, remember)
        self._server = StatusServer(self._listener, pages.answer)
        self._begin("status-accept", self._serve)

    def _open_port_later(self, delay_s: float) -> None:
        """The port was taken at the start: try again, until it is ours."""
        if self.context.settings(StatusOptions).port != 0:
            self.context.after(delay_s, _OpenPort(delay_s=delay_s))

    def _open_port(self, wish: _OpenPort) -> None:
        if self._listener is not None or self._keeper.generations.draining_cause:
            return
        port = self.context.settings(StatusOptions).port
        try:
            self._listener = listener_on(port)
        except OSError:  # the start has told it, once
            self._open_port_later(min(2 * wish.delay_s, _REOPEN_LAST_S))
            return
        _log.info(f"Opened status port {port} at last")
        self._begin_server()

    def _command(self, verb: Verb) -> None:
        text = f"POST {'/quitquitquit' if verb == 'quit' else f'/{verb}'} on the status port"
        self._tell_history(lambda history: history.with_event(time.time(), "operator", text))
        if verb == "drain":
            self._keeper.apply(Generations.were_drained)
        if verb == "rotate":
            self.context.send(Role.CERT, RotateNow(reason="operator"))
        else:
            self.context.send(Role.ENVOY, EnvoyCommand(verb=verb))

    def _serve(self) -> None:
        assert self._server is not None
        self._server.serve()
        if self._listener is not None:
            raise RuntimeError("the status server ended though the agent goes on")

    def _not_ready_because(self) -> str | None:
        """Return why not, or None; any thread."""
        options, state = self._options, self._keeper.generations
        facts = (
            Facts(terminated=state.draining_cause, envoy_disabled=True)
            if options.envoy_disabled
            else self._keeper.facts(latch=options.latch)
        )
        text = refusal(
            msgspec.structs.replace(
                facts,
                bootstrap_refusal=self._bootstrap.refusal() or "" if options.grpc_bootstrap_path else "",
                name_table_missing=options.dns_expected and not self._name_table,
            )
        )
        self._say_readiness(text)
        return text

    def _say_readiness(self, text: str | None) -> None:
        ready = text is None
        if self._said_ready == ready:
            return
        self._said_ready = ready
        level: Literal["info", "warn"] = "info" if ready else "warn"
        words = "ready" if ready else f"not ready: {text}"
        self._tell_history(lambda history: history.with_event(time.time(), "readiness", words, level))

    def _certificate_expired(self) -> bool:
        return any(end_s < time.time() for end_s in workload_ends_unix_s(self._tree))

    def _samples(self) -> Iterable[Sample]:
        age_s = time.monotonic() - self._tree_s
        yield from tree_samples(self._tree, supervisor_pid=os.getppid(), age_s=age_s, now_unix_s=time.time())
        if self._startup_s:
            yield Sample(series="startup_duration_seconds", value=self._startup_s)
        ready = self._said_ready if self._said_ready is not None else False
        yield from status_samples(self._situation((), ready=ready, reason=""))

    def _document(self, probes: tuple[ProbeRow, ...]) -> StatusDocument:
        reason = self._not_ready_because()
        return document(self._situation(probes, ready=reason is None, reason=reason or ""))

    def _situation(self, probes: tuple[ProbeRow, ...], *, ready: bool, reason: str) -> Situation:
        now_s = time.time()
        history = self._history
        return Situation(
            now_unix_s=now_s,
            started_unix_s=now_s - seconds_since_start(os.getppid()),
            agent_version=build_info().version,
            ready=ready,
            reason=reason,
            startup_s=self._startup_s,
            supervisor_pid=os.getppid(),
            tree=self._tree,
            tree_age_s=time.monotonic() - self._tree_s,
            envoys=history.envoys,
            workload=self._verdict if self._checker is not None else None,
            probes=probes,
            events=history.events,
        )

    def _tree_came(self, tree: TreeState) -> None:
        before, self._tree, self._tree_s = self._tree, tree, time.monotonic()
        for event in news(before, tree, time.time()):
            self._tell_history(
                lambda history, e=event: history.with_event(e.at_unix_s, e.kind, e.text, e.level)  # type: ignore[misc]
            )
            self._remember()

    def _tell_history(self, step: Callable[[History], History]) -> None:
        with self._history_lock:
            self._history = step(self._history)

    # Both

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def _remember(self) -> None:
        self.context.notebook.save(
            HealthNotes(
                generations=self._keeper.generations,
                verdict=self._verdict,
                probing=self._probing,
                startup_s=self._startup_s,
                name_table=self._name_table,
                counters=self._counters.values(),
                history=self._history,
            )
        )
