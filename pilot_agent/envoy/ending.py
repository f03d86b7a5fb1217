"""The planned end: drain, wait, SIGTERM, SIGKILL, and the lines that the reference writes on the way.

Source: the reference's graceful termination. There Envoy gets SIGKILL; here SIGTERM comes a second before it,
so that access logs are written to their end. Only the first quit begins; a later one can but shorten.
"""

import signal
from typing import Final

from msgspec.structs import replace

from pilot_agent.environment import go_duration
from pilot_agent.envoy.model import (
    NEVER,
    AnnounceDraining,
    ConnectionsCounted,
    CountConnections,
    Drain,
    DrainAnswered,
    DrainWanted,
    EndAgent,
    Ending,
    Generation,
    Phase,
    QuitWanted,
    Signal,
    Stage,
)
from pilot_agent.envoy.turn import KILL_GRACE_S, TERM_GRACE_S, Turn

DRAIN_CALL_S: Final = 5.0
"""Time limit of the drain call; the reference has none, and a stuck admin interface holds it up for ever."""

_POLL_S: Final = 1.0
_END_MARGIN_S: Final = 1.0  # from SIGKILL to the agent's own end
_LONGEST_COUNT_S: Final = 10.0  # the call has 2 s; then the answer was lost with an actor
_ERRORS_IN_A_ROW: Final = 5
_DRAINING_STAGES: Final = (Stage.POSTING, Stage.WAITING, Stage.MINIMUM, Stage.POLLING)


def quit_wanted(turn: Turn, event: QuitWanted) -> None:
    """Begin the end; or shorten it where it has begun."""
    limit_s = turn.now_s + event.within_s - TERM_GRACE_S - _END_MARGIN_S
    if turn.state.ending is not None:
        _shorten(turn, turn.state.ending, event.at_once, limit_s)
        return
    turn.info("Agent draining Proxy for termination")
    turn.do(AnnounceDraining(cause=event.cause))
    turn.change(start_at_s=NEVER, wanted="", retry_at_s=NEVER)
    turn.change(ending=Ending(cause=event.cause, stage=Stage.POSTING, until_s=NEVER, limit_s=limit_s))
    for unborn in turn.state.generations:
        if unborn.phase is Phase.PREPARING:
            turn.drop(unborn)
    serving = turn.serving
    if serving is None and turn.state.generations:
        _enter(turn, Stage.TERMINATING, TERM_GRACE_S)  # one is being spawned: killed as soon as it is there
    elif serving is None:
        _done(turn)
    elif event.at_once or turn.state.drained:
        turn.info("Agent already drained, exiting immediately")
        _terminate(turn)
    else:
        _enter(turn, Stage.POSTING, DRAIN_CALL_S + 1.0)
        turn.do(Drain(admin_port=serving.admin_port, inbound_only=turn.policy.inbound_only, skip_exit=False))


def drain_wanted(turn: Turn, _: DrainWanted) -> None:
    """Drain the listeners, and leave Envoy up; a later quit then has nothing to wait for."""
    serving = turn.serving
    turn.change(drained=True, wanted="", retry_at_s=NEVER)
    if serving is not None and turn.state.ending is None:
        turn.do(Drain(admin_port=serving.admin_port, inbound_only=turn.policy.inbound_only, skip_exit=True))


def envoy_is_over(turn: Turn, reason: str, exit_status: int = 0) -> None:
    """End the agent because Envoy has ended for good; old epochs that still drain go with it."""
    turn.change(ending=Ending(cause=reason, stage=Stage.TERMINATING, until_s=NEVER, exit_status=exit_status))
    turn.change(start_at_s=NEVER, wanted="", retry_at_s=NEVER)
    if turn.state.generations:
        turn.do(AnnounceDraining(cause=reason))
        _terminate(turn)
    else:
        _done(turn)


def exited(turn: Turn) -> None:
    """Look whether the last Envoy has ended."""
    ending = turn.state.ending
    if ending is None or ending.stage is Stage.DONE or turn.state.generations:
        return
    if ending.stage in _DRAINING_STAGES:
        turn.info("Graceful termination logic ended prematurely, envoy process terminated early")
    else:
        turn.info("Envoy aborted normally")
        turn.warn("Aborted proxy instance")
    _done(turn)


def spawned(turn: Turn, late: Generation) -> None:
    """Kill an Envoy that was being spawned when the quit came; it has served nobody."""
    turn.put(replace(late, signal=int(signal.SIGKILL)))
    turn.do(Signal(generation=late, signal=int(signal.SIGKILL)))


def seen_live(turn: Turn, late: Generation) -> None:
    """Drain a new epoch that took over while the agent ends; it has drained the old one itself."""
    ending = turn.state.ending
    if ending is not None and ending.stage in _DRAINING_STAGES:
        inbound_only = turn.policy.inbound_only
        turn.do(Drain(admin_port=late.admin_port, inbound_only=inbound_only, skip_exit=False))


def spawn_failed(turn: Turn) -> None:
    """Look whether that was all that was waited for."""
    ending = turn.state.ending
    if ending is not None and ending.stage is not Stage.DONE and not turn.state.generations:
        _done(turn)


def drain_answered(turn: Turn, event: DrainAnswered) -> None:
    """Begin the wait, whatever came back."""
    ending = turn.state.ending
    if event.error:
        turn.info(f"failed draining listeners for Envoy on port {event.admin_port}: {event.error}")
        turn.warn(f"Error in invoking drain listeners endpoint: {event.error}")
    if ending is None or ending.stage is not Stage.POSTING:
        return
    if turn.policy.exit_on_zero_active_connections:
        minimum = go_duration(turn.policy.minimum_drain_s)
        turn.info(f"Agent draining proxy for {minimum}, then waiting for active connections to terminate...")
        _enter(turn, Stage.MINIMUM, turn.policy.minimum_drain_s)
    else:
        period = go_duration(turn.policy.termination_drain_s)
        turn.info(f"Graceful termination period is {period}, starting...")
        _enter(turn, Stage.WAITING, turn.policy.termination_drain_s)


def connections_counted(turn: Turn, event: ConnectionsCounted) -> None:
    """Decide by the number of active connections whether there is still something to wait for."""
    ending = turn.state.ending
    if ending is None or ending.stage is not Stage.POLLING:
        return
    if event.error:
        _count_failed(turn, ending, event.error)
    elif event.active is None:
        turn.info(
            "downstream_cx_active are not available. This either means there are no downstream connections "
            "established yet or the stats are not enabled. Skipping active connections check..."
        )
        _terminate(turn)
    elif event.active == 0:
        turn.info("There are no more active connections. terminating proxy...")
        _terminate(turn)
    else:
        turn.info(f"There are still {event.active} active connections")
        turn.change(ending=replace(ending, errors=0, until_s=turn.now_s + _POLL_S))


def woken(turn: Turn) -> None:
    """Go on where a stage or the whole time is over."""
    ending = turn.state.ending
    if ending is None:
        return
    if ending.stage in _DRAINING_STAGES and turn.now_s >= ending.limit_s:
        turn.warn("The time for the drain is over, terminating remaining proxies.")
        _terminate(turn)
    elif turn.now_s >= ending.until_s:
        _stage_is_over(turn, ending)


def resumed(turn: Turn) -> None:
    """Go on after EnvoyActor was restarted: what may not have been done is done again."""
    ending = turn.state.ending
    if ending is None:
        return
    if ending.stage is Stage.DONE:
        turn.do(EndAgent(reason=ending.cause, exit_status=ending.exit_status))
        return
    turn.do(AnnounceDraining(cause=ending.cause))
    serving = turn.serving
    if ending.stage is Stage.POSTING and serving is not None:
        turn.do(Drain(admin_port=serving.admin_port, inbound_only=turn.policy.inbound_only, skip_exit=False))
    elif ending.stage is Stage.TERMINATING and turn.running:
        _terminate(turn)


def due_s(turn_ending: Ending | None) -> float:
    """Return when `woken` is due."""
    if turn_ending is None or turn_ending.stage is Stage.DONE:
        return NEVER
    limited = turn_ending.stage in _DRAINING_STAGES
    return min(turn_ending.until_s, turn_ending.limit_s) if limited else turn_ending.until_s


def _stage_is_over(turn: Turn, ending: Ending) -> None:
    match ending.stage:
        case Stage.POSTING:
            port = turn.serving.admin_port if turn.serving else turn.policy.admin_port
            drain_answered(turn, DrainAnswered(admin_port=port, error=f"no answer within {DRAIN_CALL_S:g}s"))
        case Stage.WAITING:
            turn.info("Graceful termination period complete, terminating remaining proxies.")
            _terminate(turn)
        case Stage.MINIMUM | Stage.POLLING:
            _count(turn)
        case Stage.TERMINATING if not turn.running:
            _done(turn)  # the supervisor spawns nothing any more, or it is killed when it does
        case Stage.TERMINATING:
            _kill(turn)
        case Stage.KILLING:
            turn.error(f"Envoy has not ended {KILL_GRACE_S:g}s after SIGKILL, giving up on it")
            _done(turn)
        case Stage.DONE:
            pass


def _count(turn: Turn) -> None:
    serving = turn.serving
    _enter(turn, Stage.POLLING, _LONGEST_COUNT_S)
    if serving is not None:
        turn.do(CountConnections(admin_port=serving.admin_port))


def _count_failed(turn: Turn, ending: Ending, error: str) -> None:
    errors = ending.errors + 1
    turn.error(f"Failed to get active connections: {error}")
    if errors >= _ERRORS_IN_A_ROW:
        _terminate(turn)
        return
    turn.info(f"Retrying ({errors} attempt) to get active connections...")
    turn.change(ending=replace(ending, errors=errors, until_s=turn.now_s + _POLL_S))


def _shorten(turn: Turn, ending: Ending, at_once: bool, limit_s: float) -> None:
    if ending.stage not in _DRAINING_STAGES:
        return
    turn.change(ending=replace(ending, limit_s=min(ending.limit_s, limit_s)))
    if at_once:
        turn.info("Agent already drained, exiting immediately")
        _terminate(turn)


def _terminate(turn: Turn) -> None:
    turn.warn("Aborting proxy")
    _enter(turn, Stage.TERMINATING, TERM_GRACE_S)
    _signal_all(turn, signal.SIGTERM)


def _kill(turn: Turn) -> None:
    _enter(turn, Stage.KILLING, KILL_GRACE_S)
    _signal_all(turn, signal.SIGKILL)


def _signal_all(turn: Turn, number: signal.Signals) -> None:
    for each in turn.running:
        turn.put(replace(each, signal=int(number), due_s=NEVER))
        turn.do(Signal(generation=each, signal=int(number)))


def _enter(turn: Turn, stage: Stage, seconds: float) -> None:
    ending = turn.state.ending
    if ending is not None:
        turn.change(ending=replace(ending, stage=stage, until_s=turn.now_s + seconds))


def _done(turn: Turn) -> None:
    ending = turn.state.ending
    turn.info("Agent has successfully terminated")
    if ending is not None:
        turn.change(ending=replace(ending, stage=Stage.DONE, until_s=NEVER))
        turn.do(EndAgent(reason=ending.cause, exit_status=ending.exit_status))
