"""When is an actor to be killed? Pure: the supervisor measures, this decides.

A hang is an unanswered heartbeat, counted from the last sign of life in the supervisor's own attentive
time: what the supervisor itself overslept (a frozen container, a suspended machine) is no actor's fault.
"""

from typing import Final

import msgspec

HEARTBEAT_EVERY_S: Final = 2.0
LOOK_EVERY_S: Final = 0.25
STOPPED_FOR_S: Final = 0.5
"""A SIGSTOP of this length is a death; a shorter one (a debugger attaching) is not."""

GAP_S: Final = 2.0
"""When two looks lie this far apart beyond their interval, the supervisor itself was away."""


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one actor at one moment; times are monotonic seconds."""

    silent_since_s: float | None  # last sign of life before an unanswered heartbeat; None: all answered
    stopped_since_s: float | None  # SIGSTOP seen and no SIGCONT since
    private_bytes: int  # resident minus file-backed, now
    private_limit_bytes: int
    oldest_unfinished_s: float  # byte path, from the last answer
    heartbeat_late_s: float


def reason_to_kill(vitals: Vitals, now_s: float) -> str | None:
    """Return why this actor has to be killed now, or None."""
    if vitals.stopped_since_s is not None and now_s - vitals.stopped_since_s >= STOPPED_FOR_S:
        return f"stopped for {now_s - vitals.stopped_since_s:.1f} s"
    if vitals.private_bytes > vitals.private_limit_bytes:
        got, limit = vitals.private_bytes >> 20, vitals.private_limit_bytes >> 20
        return f"private memory got={got} MiB limit={limit} MiB"
    if vitals.silent_since_s is not None and now_s - vitals.silent_since_s > vitals.heartbeat_late_s:
        return f"no answer to a heartbeat for {now_s - vitals.silent_since_s:.1f} s"
    if vitals.oldest_unfinished_s > 3 * vitals.heartbeat_late_s:
        return f"byte path stuck for {vitals.oldest_unfinished_s:.1f} s"
    return None


def silent_since_s(heard_s: float, now_s: float) -> float:
    """Return since when an actor counts as silent that is asked now and was heard of last at `heard_s`.

    A hang that begins right after an answer is as long as one that begins with the question; but what the
    supervisor asked too late is not counted.
    """
    return max(heard_s, now_s - HEARTBEAT_EVERY_S)


def own_absence_s(last_look_s: float, now_s: float, interval_s: float) -> float:
    """Return how long the supervisor itself was away between two looks; 0.0 when it was not."""
    late_s = now_s - last_look_s - interval_s
    return late_s if late_s > GAP_S else 0.0
