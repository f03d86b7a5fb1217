"""Restarts that somebody wants: gathered, begun when Envoy is ready for it, refused, tried again."""

from typing import Final

from pilot_agent.environment import go_duration
from pilot_agent.envoy.model import (
    NEVER,
    Count,
    Generation,
    Phase,
    Prepare,
    RestartWanted,
)
from pilot_agent.envoy.turn import Turn

ADMIN_PORT_REASON: Final = "admin_port"
ROTATION_REASON: Final = "rotation"
FAILED: Final = "failed"
"""The word for a restart that was begun and whose Envoy was never LIVE: no refusal, counted by itself."""


def restart_wanted(turn: Turn, event: RestartWanted) -> None:
    """Note that a new epoch is wanted; those that come together are one restart."""
    if turn.state.ending is not None or turn.state.drained:
        _refusal(turn, "draining", event.reason, "the agent is draining")
    elif not turn.policy.hot_restart:
        _refusal(turn, "disabled", event.reason, "hot restart is off")
    elif event.reason == ROTATION_REASON and _is_starting(turn):
        turn.info("The Envoy that is being started gets the new certificate: no further restart for it")
    else:
        turn.change(wanted=joined(turn.state.wanted, event.reason), retry_at_s=NEVER)
        blocked = _blocked(turn)
        if blocked:
            _refusal(turn, blocked[0], event.reason, f"{blocked[1]}; tried again then")
        try_restart(turn)


def try_restart(turn: Turn) -> None:
    state = turn.state
    waits = state.retry_at_s != NEVER
    if not state.wanted or waits or state.ending or state.drained or _blocked(turn):
        return
    old = state.generations[0]
    turn.change(wanted="")
    if old.base_id and old.base_id != state.spoiled_base_id:
        turn.info(f"Hot restart of Envoy ({state.wanted}): epoch {old.epoch} to {old.epoch + 1}")
        prepare_new(
            turn,
            epoch=old.epoch + 1,
            base_id=old.base_id,
            admin_port=turn.policy.admin_port,
            reason=state.wanted,
            replaces=old.generation,
        )
    else:
        turn.info(f"Restart of Envoy ({state.wanted}): a fresh base id beside epoch {old.epoch}")
        prepare_new(turn, epoch=0, base_id=0, admin_port=0, reason=state.wanted, replaces=old.generation)


def prepare_new(turn: Turn, *, epoch: int, base_id: int, admin_port: int, reason: str, replaces: int) -> None:
    new = Generation(
        generation=turn.state.next_generation,
        epoch=epoch,
        base_id=base_id,
        admin_port=admin_port,
        phase=Phase.PREPARING,
        reason=reason,
        replaces=replaces,
    )
    turn.change(next_generation=new.generation + 1)
    turn.put(new)
    turn.do(Prepare(generation=new, validate=replaces >= 0))


def refused(turn: Turn, word: str, reason: str, why: str, *, wait_s: float | None = None) -> None:
    """Keep the running epoch, and try again later: after `wait_s`, else longer with each attempt."""
    attempts = turn.state.attempts + 1
    wait_s = turn.waits.hot_restart_s(attempts) if wait_s is None else wait_s
    turn.change(wanted=joined(reason, turn.state.wanted), attempts=attempts, retry_at_s=turn.now_s + wait_s)
    _refusal(turn, word, reason, f"{why}; tried again in {go_duration(round(wait_s, 1))}")


def joined(first: str, second: str) -> str:
    """Return both reasons, each once."""
    words = [*filter(None, first.split("+")), *filter(None, second.split("+"))]
    return "+".join(dict.fromkeys(words))


def _refusal(turn: Turn, word: str, wanted: str, why: str) -> None:
    turn.warn(f"Restart of Envoy ({wanted}) not possible now, the running epoch stays: {why}")
    if word == FAILED:
        turn.do(Count(name="hot_restart_failed", reason=wanted))
    else:
        turn.do(Count(name="hot_restart_refused", reason=word))


def _blocked(turn: Turn) -> tuple[str, str] | None:
    """Return why no restart can begin now: a word for the counter, and words for a person."""
    generations = turn.state.generations
    if len(generations) > 1:
        return "in_flight", "another restart is in flight"
    if not generations or generations[0].phase is not Phase.LIVE:
        return "not_live", "Envoy is not LIVE"
    return None


def _is_starting(turn: Turn) -> bool:
    """Whether an Envoy is about to come that has no connections with the old certificate."""
    phases = (Phase.PREPARING, Phase.SPAWNING, Phase.INITIALIZING)
    return turn.state.start_at_s != NEVER or any(each.phase in phases for each in turn.state.generations)
