"""Answers "is Envoy ready?" for any thread, by asking Envoy no more often than is needed."""

import threading
from collections.abc import Callable
from typing import Final

from pilot_agent.health.admin import refusal
from pilot_agent.health.decision import EnvoyFacts, Facts
from pilot_agent.health.generations import Generation, Generations
from pilot_agent.health.watch import Seen, Watch, process_state

_EARN_AFTER_S: Final = 0.1
_EARN_AFTER_AT_MOST_S: Final = 2.0
"""An Envoy that reports LIVE is asked until it is ready, at growing intervals: no hot restart waits for a
probe, and one that never gets CDS (a bootstrap of the user's own) is not asked ten times a second."""


class ReadinessKeeper:
    """Holds the generations, and asks those that have not earned readiness yet.

    One question to Envoy is under way at a time. While no generation is ready, who comes meanwhile waits
    for it (4 s at most) and then sees its result; afterwards it gets what was seen last.
    """

    def __init__(
        self,
        host: str,
        generations: Generations,
        changed: Callable[[Generations], None],
        *,
        ready_port: int = 15021,
        needs_listeners: bool = False,
        certificate_expired: Callable[[], bool] = lambda: False,
    ) -> None:
        """`changed` is called, on whichever thread it happens, after each change worth keeping.

        Args:
            host: The loopback address of Envoy's own ports.
            generations: What is known already.
            changed: See above.
            ready_port: Envoy's own readiness listener.
            needs_listeners: Without any listener of istiod's, once there was one, nothing is served. (A
                router whose last Gateway was taken away has none rightly.)
            certificate_expired: Whether a workload certificate has expired, so that Envoy is to be asked
                whether it uses it.
        """
        self._watch, self._certificate_expired = Watch(host, ready_port=ready_port), certificate_expired
        self._host, self._changed, self._needs_listeners = host, changed, needs_listeners
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

    def facts(self, *, latch: bool = False) -> Facts:
        """Return what is known of Envoy now. Blocks for its admin interface at most (1 s + 3 s)."""
        state = self._state
        if state.draining_cause or (latch and state.ever_ready):
            return _facts(state, latch=latch)
        if not state.any_ready():
            text = self._asked() if state.alive else None
            state = self._state
            if not state.any_ready():
                envoys = tuple(_unproved(each, text) for each in state.alive)
                return _facts(state, latch=latch, envoys=envoys)
        return self._serving(latch=latch)

    def _serving(self, *, latch: bool) -> Facts:
        """Look at those that are ready, the newest first, until one is found that serves."""
        expired, state = self._certificate_expired(), self._state
        envoys: list[EnvoyFacts] = []
        seen = Seen(at_s=0.0)
        for each in state.earned_ones():
            process = process_state(each.pid)
            if process == "runs":
                seen = self._watch.seen(each, certificate_expired=expired)
            since_s = seen.silent_since_s
            silent_s = 0.0 if since_s is None else max(seen.at_s - since_s, 0.0)
            envoys.append(
                EnvoyFacts(
                    generation=each.generation,
                    earned=True,
                    process=process,
                    refusal=seen.refusal,
                    silent_s=silent_s,
                )
            )
            if process == "runs" and not seen.refusal and silent_s == 0.0:
                break
        if seen.listens and not state.listened:
            self.apply(Generations.listens)
        if seen.configured and not state.configured:
            self.apply(Generations.has_listeners)
        return _facts(
            state,
            latch=latch,
            envoys=tuple(reversed(envoys)),
            listeners_gone=seen.listens is False and state.listened,
            listeners_removed=self._needs_listeners and seen.configured is False and state.configured,
            certificate_expired_s=seen.expired_s,
        )

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


def _unproved(generation: Generation, text: str | None) -> EnvoyFacts:
    process = process_state(generation.pid)
    return EnvoyFacts(generation=generation.generation, process=process, refusal=text or "")


def _facts(
    state: Generations,
    *,
    latch: bool,
    envoys: tuple[EnvoyFacts, ...] = (),
    listeners_gone: bool = False,
    listeners_removed: bool = False,
    certificate_expired_s: float = 0.0,
) -> Facts:
    return Facts(
        terminated=state.draining_cause,
        drained=state.drained,
        latch=latch,
        ever_ready=state.ever_ready,
        envoys=envoys,
        last_exit=state.last_exit,
        listeners_gone=listeners_gone,
        listeners_removed=listeners_removed,
        certificate_expired_s=certificate_expired_s,
    )
