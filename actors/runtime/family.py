"""The supervisor's view of its actors: one record each, and what changes it."""

import os

import msgspec

from actors.messages.control import ActorState, HeartbeatAnswered
from actors.runtime.control import ControlEnd
from actors.runtime.roles import Role
from actors.runtime.specs import ChildSpec
from actors.runtime.watchdog import Vitals


class Running(msgspec.Struct):
    """One living incarnation."""

    pid: int
    pidfd: int
    control: ControlEnd
    started_s: float  # monotonic
    ready: bool = False
    silent_since_s: float | None = None
    stopped_since_s: float | None = None
    killed_because: str | None = None

    def close(self) -> None:
        """Close what the supervisor holds of it."""
        self.control.close()
        os.close(self.pidfd)


class Child(msgspec.Struct):
    """One actor through all its incarnations."""

    spec: ChildSpec
    notebook: int
    incarnation: int = 0
    failures: int = 0  # deaths in a row, each after a short life
    running: Running | None = None
    answer: HeartbeatAnswered | None = None
    answered_s: float = 0.0
    handed_down: tuple[int, ...] = ()  # descriptors for its successors, owned by the supervisor
    estate: tuple[bytes, tuple[int, ...]] = (b"", ())  # for the next incarnation; owned by the supervisor
    past_counters: dict[str, float] = msgspec.field(default_factory=dict)  # of the incarnations before
    notes: dict[str, str] = msgspec.field(default_factory=dict)
    last_end: str = ""
    last_end_unix_s: float = 0.0

    def answered(self, answer: HeartbeatAnswered, now_s: float) -> None:
        """Take a heartbeat's answer."""
        self.answer, self.answered_s = answer, now_s
        self.notes = self.notes | answer.notes
        if self.running is not None:
            self.running.silent_since_s = None

    def ended(self) -> Running:
        """Forget the living incarnation, keeping its counters; return it."""
        assert self.running is not None
        ended, self.running = self.running, None
        if self.answer is not None:
            self.past_counters = _added(self.past_counters, self.answer.counters)
            self.answer = None
        return ended

    def hand_down(self, descriptors: tuple[int, ...]) -> None:
        """Keep these descriptors instead of those that were kept."""
        for descriptor in self.handed_down:
            os.close(descriptor)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # Envoy is executed from here
        self.handed_down = descriptors

    def inherit(self, estate: tuple[bytes, tuple[int, ...]]) -> None:
        """Keep what this incarnation leaves to the next instead of what was kept."""
        for descriptor in self.estate[1]:
            os.close(descriptor)
        for descriptor in estate[1]:
            os.set_inheritable(descriptor, False)  # Envoy is executed from here
        self.estate = estate

    def vitals(self, private_bytes: int) -> Vitals:
        """Return what the watchdog judges."""
        assert self.running is not None
        return Vitals(
            silent_since_s=self.running.silent_since_s,
            stopped_since_s=self.running.stopped_since_s,
            private_bytes=private_bytes,
            private_limit_bytes=self.spec.private_limit_bytes,
            oldest_unfinished_s=self.answer.oldest_unfinished_s if self.answer is not None else 0.0,
            heartbeat_late_s=self.spec.heartbeat_late_s,
        )

    def state(self, now_s: float) -> ActorState:
        """Return the row of the status page."""
        answer, running = self.answer, self.running
        counters = _added(self.past_counters, answer.counters if answer is not None else {})
        return ActorState(
            role=self.spec.role,
            pid=running.pid if running is not None else 0,
            incarnation=self.incarnation,
            restarts=max(self.incarnation - 1, 0),
            ready=running is not None and running.ready,
            heartbeat_age_s=now_s - self.answered_s if self.answered_s else -1.0,
            pss_bytes=answer.pss_bytes if answer is not None else 0,
            private_bytes=answer.private_bytes if answer is not None else 0,
            descriptors=answer.descriptors if answer is not None else 0,
            threads=answer.threads if answer is not None else 0,
            mailbox_depth=answer.mailbox_depth if answer is not None else 0,
            counters=counters,
            gauges=answer.gauges if answer is not None else {},
            notes=self.notes,
            last_end=self.last_end,
            last_end_unix_s=self.last_end_unix_s,
        )


Family = dict[Role, Child]


def _added(past: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    return past | {name: past.get(name, 0.0) + value for name, value in now.items()}
