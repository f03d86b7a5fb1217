"""The one entrance to the decisions: a state and an event in, a state and actions out. No clock, no I/O."""

from typing import assert_never

from pilot_agent.envoy import ending, epochs, restarts, stops
from pilot_agent.envoy.model import (
    Action,
    Begun,
    ConnectionsCounted,
    DrainAnswered,
    DrainWanted,
    Event,
    Exited,
    Found,
    Policy,
    Prepared,
    QuitWanted,
    RestartWanted,
    SeenLive,
    Spawned,
    SpawnFailed,
    State,
    StopSeen,
    Woken,
)
from pilot_agent.envoy.turn import Turn, Waits


def decide(
    state: State, event: Event, *, now_s: float, policy: Policy, waits: Waits
) -> tuple[State, tuple[Action, ...]]:
    """Return the state after `event`, and what is to be done about it, in order.

    The state is to be kept before the actions are done: all of them may be done again.
    """
    turn = Turn(state, policy, now_s, waits)
    _dispatch(turn, event)
    return turn.state, tuple(turn.actions)


def next_wake_s(state: State) -> float:
    """Return when the machine wants a `Woken`; infinite if never."""
    if state.ending is not None:
        return ending.due_s(state.ending)
    due = (min(each.due_s, each.stopped_due_s) for each in state.generations)
    return min(state.start_at_s, state.retry_at_s, *due, float("inf"))


def _dispatch(turn: Turn, event: Event) -> None:  # noqa: C901, PLR0912  # one case an event
    match event:
        case Begun():
            epochs.begun(turn, event)
        case Found():
            epochs.found(turn, event)
        case Woken():
            epochs.woken(turn)
            stops.woken(turn)
            ending.woken(turn)
        case Prepared():
            epochs.prepared(turn, event)
        case Spawned():
            epochs.spawned(turn, event)
        case SpawnFailed():
            epochs.spawn_failed(turn, event)
        case SeenLive():
            epochs.seen_live(turn, event)
        case Exited():
            epochs.exited(turn, event)
        case StopSeen():
            stops.stop_seen(turn, event)
        case RestartWanted():
            restarts.restart_wanted(turn, event)
        case DrainWanted():
            ending.drain_wanted(turn, event)
        case QuitWanted():
            ending.quit_wanted(turn, event)
        case DrainAnswered():
            ending.drain_answered(turn, event)
        case ConnectionsCounted():
            ending.connections_counted(turn, event)
        case _:
            assert_never(event)
