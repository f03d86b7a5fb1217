"""A stopped Envoy (SIGSTOP): it answers nobody, and no exit tells of it.

It is let go on after half a second, in which somebody who only looks at it is done. One that is stopped
again and again is killed; that is a crash like any other.
"""

import signal
from typing import Final

from msgspec.structs import replace

from pilot_agent.envoy.model import NEVER, Count, Signal, StopSeen
from pilot_agent.envoy.turn import Turn

STOP_GRACE_S: Final = 0.5
_MOST_STOPS: Final = 5


def stop_seen(turn: Turn, event: StopSeen) -> None:
    """Note when it is to go on."""
    known = turn.find(event.generation)
    if known is None or not known.is_running:
        return
    if event.stopped:
        turn.warn(f"Envoy epoch {known.epoch} was stopped and serves nothing, pid {known.pid}")
        turn.put(replace(known, stops=known.stops + 1, stopped_due_s=turn.now_s + STOP_GRACE_S))
    else:
        turn.info(f"Envoy epoch {known.epoch} goes on, pid {known.pid}")
        turn.put(replace(known, stopped_due_s=NEVER))


def woken(turn: Turn) -> None:
    """Let those go on that have been stopped for long enough."""
    for due in [each for each in turn.running if turn.now_s >= each.stopped_due_s]:
        known = replace(due, stopped_due_s=NEVER)
        if due.stops <= _MOST_STOPS:
            turn.put(known)
            turn.do(Signal(generation=known, signal=int(signal.SIGCONT)))
            turn.do(Count(name="envoy_continued", reason="stopped"))
        else:
            turn.error(f"Envoy epoch {due.epoch} was stopped {due.stops} times, it is started anew")
            number = int(signal.SIGKILL)
            turn.put(replace(known, signal=number))
            turn.do(Signal(generation=known, signal=number))
