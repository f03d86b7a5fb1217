"""The life of Envoy's generations: start, LIVE, restart, crash, and an old epoch's end.

At most two generations are there at once. A new one comes in one of three ways:

- cold: nobody is there; epoch 0 of a fresh base id;
- hot: epoch N+1 of the same base id takes over listeners and admin port, and ends its parent;
- overlapping: where the base id is spoiled (two epochs of it in a row failed, or its shared memory cannot be
  healed), epoch 0 of a fresh one beside the running generation, on a temporary admin port; once it is LIVE
  the old one is drained and ended, and a hot restart follows that brings the admin port back.
"""

import signal
from typing import Final

from msgspec.structs import replace

from pilot_agent.environment import go_duration
from pilot_agent.envoy import ending, restarts
from pilot_agent.envoy.model import (
    NEVER,
    Announce,
    Begun,
    Clear,
    Count,
    Drain,
    Exited,
    Fail,
    Found,
    Generation,
    Phase,
    Prepare,
    Prepared,
    SeenLive,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    Watch,
)
from pilot_agent.envoy.turn import KILL_GRACE_S, Turn
from pilot_agent.envoy.wait_status import describe, is_kill, is_success

OLD_EPOCH_GRACE_S: Final = 5.0
"""How long after its parent shutdown an old epoch may still be there before it gets SIGTERM."""

_HOT_TRIES: Final = 2
"""How many epochs of a base id may fail before another way is tried."""

_FREE_KILLS: Final = 10
"""How many kills in a row before LIVE cost no wait."""

_PASSING: Final = ("resource temporarily unavailable", "cannot allocate memory", "text file busy")
"""Reasons for a failed exec that may be gone the next time."""

SLOW_START_S: Final = 60.0
"""After this long a new epoch beside a serving one is called slow; not killed, for it has the admin port."""


def begun(turn: Turn, _: Begun) -> None:
    """Start the first Envoy."""
    if turn.state.next_generation == 0:
        _start_cold(turn)


def found(turn: Turn, event: Found) -> None:
    """Take up the generations again after EnvoyActor was restarted. No Envoy is restarted for that."""
    processes = {each.generation: each for each in event.running}
    for known in turn.state.generations:
        process = processes.pop(known.generation, None)
        _take_up(turn, known, process)
    for unknown in processes.values():
        turn.put(unknown)
        turn.change(next_generation=max(turn.state.next_generation, unknown.generation + 1))
        if turn.state.ending is None:
            turn.do(Watch(generation=unknown))
        else:
            ending.spawned(turn, unknown)
    ending.resumed(turn)
    state = turn.state
    if state.ending is None and not state.generations and state.start_at_s == NEVER:
        _start_cold(turn)


def prepared(turn: Turn, event: Prepared) -> None:
    """Have a prepared generation spawned, unless it is refused or no longer wanted."""
    known = turn.find(event.generation)
    if known is None:
        _prepared_in_vain(turn, event)
        return
    if known.phase is not Phase.PREPARING:
        return
    known = replace(
        known,
        base_id=event.base_id,
        admin_port=event.admin_port,
        bootstrap_path=event.bootstrap_path,
    )
    if event.refusal:
        turn.put(known)
        turn.drop(known)
        _not_prepared(turn, known, event)
        return
    known = replace(known, phase=Phase.SPAWNING)
    turn.put(known)
    turn.do(Spawn(generation=known))


def _prepared_in_vain(turn: Turn, event: Prepared) -> None:
    """Have the bootstrap removed of a generation that was dropped while it was written: Envoy had crashed."""
    path, number = event.bootstrap_path, event.generation
    if path and all(each.bootstrap_path != path for each in turn.state.generations):
        gone = Generation(generation=number, epoch=0, base_id=0, admin_port=0, phase=Phase.PREPARING)
        turn.do(Clear(generation=replace(gone, bootstrap_path=path), base_id_is_free=False))


def spawned(turn: Turn, event: Spawned) -> None:
    """Note the process, and watch it until it is LIVE."""
    known = turn.find(event.generation)
    if known is None:
        _spawned_unwanted(turn, event)
        return
    if known.is_running:
        return
    due_s = turn.now_s + SLOW_START_S if known.replaces >= 0 else NEVER
    known = replace(
        known, phase=Phase.INITIALIZING, pid=event.pid, create_time=event.create_time, due_s=due_s
    )
    turn.put(known)
    if turn.state.ending is not None:
        ending.spawned(turn, known)
        return
    turn.do(Announce(what="started", generation=known), Watch(generation=known))
    if known.is_hot and turn.find(known.replaces) is None:
        _kill_orphan(turn, known)


def spawn_failed(turn: Turn, event: SpawnFailed) -> None:
    """Give up a generation that could not be executed.

    The first one is not tried again, as by the reference, unless the reason may pass. An Envoy that could be
    executed before is: its file is being replaced, or its disk is away.
    """
    known = turn.find(event.generation)
    if known is None or known.is_running:
        return
    turn.drop(known)
    if turn.state.ending is not None:
        ending.spawn_failed(turn)
        return
    turn.error(f"Envoy exited with error: {event.reason}")
    if turn.running:
        restarts.refused(turn, restarts.FAILED, known.reason, event.reason)
    elif turn.policy.restart_on_failure and (known.generation > 0 or event.reason.endswith(_PASSING)):
        _start_again(turn, event.reason)
    else:
        ending.envoy_is_over(turn, "Envoy could not be started")


def seen_live(turn: Turn, event: SeenLive) -> None:
    """Let the new generation be the serving one, and the old one end."""
    known = turn.find(event.generation)
    if known is None or known.phase is not Phase.INITIALIZING or not known.is_running:
        return
    known = replace(known, phase=Phase.LIVE, due_s=NEVER)
    turn.put(known)
    turn.do(Announce(what="live", generation=known))
    for old in turn.running:
        if old.generation < known.generation and old.phase is not Phase.DRAINING:
            _retire(turn, old, known)
    if turn.state.ending is not None:
        ending.seen_live(turn, known)
        return
    if known.reason:
        turn.change(attempts=0, failed_hot=0, retry_at_s=NEVER)
        turn.do(Count(name="hot_restarts", reason=known.reason))
        turn.info(f"Envoy epoch {known.epoch} is live ({known.reason}), pid {known.pid}")
    restarts.try_restart(turn)


def exited(turn: Turn, event: Exited) -> None:
    """Decide what an end means: planned, a failed epoch, or a crash."""
    gone = turn.find(event.generation)
    if gone is None:
        turn.change(next_generation=max(turn.state.next_generation, event.generation + 1))
        return
    words = "its end was not seen" if event.status is None else describe(event.status)
    turn.drop(gone)
    turn.do(Announce(what="exited", generation=gone, status=words))
    if turn.state.ending is not None:
        ending.exited(turn)
    elif gone.phase is Phase.DRAINING:
        turn.info(f"Envoy epoch {gone.epoch} ended: {words}")
        _old_is_gone(turn)
    elif any(each.phase is Phase.LIVE for each in turn.running):
        _epoch_failed(turn, gone, words)
    else:
        _serving_is_gone(turn, gone, event.status, words)


def woken(turn: Turn) -> None:
    """Do what is due by now."""
    state = turn.state
    if state.ending is not None:
        return
    if turn.now_s >= state.start_at_s:
        turn.change(start_at_s=NEVER)
        _start_cold(turn)
    if turn.now_s >= state.retry_at_s:
        turn.change(retry_at_s=NEVER)
        restarts.try_restart(turn)
    for due in [each for each in turn.running if turn.now_s >= each.due_s]:
        if due.phase is Phase.INITIALIZING:
            _say_slow(turn, due)
        else:
            _push_out(turn, due)


def _take_up(turn: Turn, known: Generation, process: Generation | None) -> None:
    if known.phase is Phase.PREPARING:
        turn.do(Prepare(generation=known, validate=known.replaces >= 0))
    elif process is None and known.phase is Phase.SPAWNING:
        if turn.state.ending is None:
            turn.do(Spawn(generation=known))
    elif process is None:
        exited(turn, Exited(generation=known.generation, status=None))
    elif known.phase is Phase.SPAWNING:
        spawned(
            turn,
            Spawned(generation=known.generation, pid=process.pid, create_time=process.create_time),
        )
    else:
        if known.phase is Phase.INITIALIZING:
            turn.do(Watch(generation=known))
        if known.signal:
            turn.do(Signal(generation=known, signal=known.signal))


def _start_cold(turn: Turn) -> None:
    restarts.prepare_new(turn, epoch=0, base_id=0, admin_port=turn.policy.admin_port, reason="", replaces=-1)


def _not_prepared(turn: Turn, known: Generation, event: Prepared) -> None:
    refusal = event.refusal
    if turn.state.ending is not None:
        return
    if known.replaces >= 0 and turn.running:
        soon_s = None
        if event.refused_for == "spoiled":
            turn.change(spoiled_base_id=known.base_id)
            soon_s = turn.waits.crash_s(1)
        restarts.refused(turn, event.refused_for, known.reason, refusal, wait_s=soon_s)
    elif known.generation == 0:
        turn.do(Fail(reason=refusal))
    else:
        turn.error(refusal)
        _start_again(turn, refusal)


def _retire(turn: Turn, old: Generation, successor: Generation) -> None:
    if turn.state.ending is not None:  # all of them are ended anyway
        turn.put(replace(old, phase=Phase.DRAINING))
        return
    due_s = turn.now_s + turn.policy.parent_shutdown_s + OLD_EPOCH_GRACE_S
    if not successor.is_hot:  # nobody but us tells it to drain, and to end
        due_s = turn.now_s + turn.policy.parent_shutdown_s
        turn.do(
            Drain(
                admin_port=old.admin_port,
                past_admin=old,
                successor=successor,
                inbound_only=False,
                skip_exit=False,
            )
        )
    turn.put(replace(old, phase=Phase.DRAINING, due_s=due_s))


def _say_slow(turn: Turn, slow: Generation) -> None:
    turn.put(replace(slow, due_s=NEVER))
    turn.warn(
        f"Envoy epoch {slow.epoch} is not live {go_duration(SLOW_START_S)} after its start "
        "(is istiod reachable?); the old epoch goes on serving until it is"
    )


def _push_out(turn: Turn, old: Generation) -> None:
    number = signal.SIGKILL if old.signal == signal.SIGTERM else signal.SIGTERM
    due_s = NEVER if number is signal.SIGKILL else turn.now_s + KILL_GRACE_S
    turn.put(replace(old, signal=int(number), due_s=due_s))
    turn.do(Signal(generation=old, signal=int(number)))


def _old_is_gone(turn: Turn) -> None:
    live = next((each for each in turn.running if each.phase is Phase.LIVE), None)
    if live is not None and live.admin_port != turn.policy.admin_port:
        turn.change(wanted=restarts.joined(turn.state.wanted, restarts.ADMIN_PORT_REASON))
    restarts.try_restart(turn)


def _epoch_failed(turn: Turn, gone: Generation, words: str) -> None:
    why = f"epoch {gone.epoch} of it ended before it was LIVE: {words}"
    if gone.is_hot:
        # It has shut its parent's admin port down, so the next attempt comes soon.
        failed = turn.state.failed_hot + 1
        turn.change(failed_hot=failed)
        if failed >= _HOT_TRIES:
            turn.change(spoiled_base_id=gone.base_id, failed_hot=0)
        restarts.refused(turn, restarts.FAILED, gone.reason, why, wait_s=turn.waits.crash_s(1))
    else:
        restarts.refused(turn, restarts.FAILED, gone.reason, why)


def _serving_is_gone(turn: Turn, gone: Generation, status: int | None, words: str) -> None:
    for unborn in [each for each in turn.state.generations if not each.is_running]:
        if unborn.phase is Phase.PREPARING:
            turn.drop(unborn)
    began = gone.phase is Phase.LIVE or gone.replaces < 0  # a takeover that gives up is no normal end
    if status is not None and is_success(status) and began:
        turn.info("Envoy exited normally")
        ending.envoy_is_over(turn, "Envoy exited normally")
        return
    if status is not None and is_kill(status) and not gone.signal:
        turn.warn("Envoy may have been out of memory killed. Check memory usage and limits.")
    turn.error(f"Envoy exited with error: {words}")
    successors = [each for each in turn.state.generations if each.phase is not Phase.DRAINING]
    for orphan in successors:
        if orphan.is_hot and orphan.is_running:
            _kill_orphan(turn, orphan)
    if not turn.policy.restart_on_failure:
        ending.envoy_is_over(turn, f"Envoy exited with error: {words}")
    elif not successors:
        was_live = gone.phase in (Phase.LIVE, Phase.DRAINING)
        was_killed = status is not None and is_kill(status)
        _start_again(turn, f"Envoy exited with error: {words}", was_live=was_live, was_killed=was_killed)


def _start_again(turn: Turn, why: str, *, was_live: bool = False, was_killed: bool = False) -> None:
    """Start a failed Envoy again: one that was LIVE at once, one that never was after a growing wait.

    A kill says less of Envoy than an exit does, and it may have been LIVE already without our having seen it:
    the first few in a row cost no wait either.
    Beyond the budget of the window it is a crash loop, which is said loudly and slowed down; whether it
    ends the agent is configured.
    """
    policy = turn.policy
    crashes = (*(at for at in turn.state.crashes_s if at > turn.now_s - policy.crash_window_s), turn.now_s)
    failed_starts = 0 if was_live else turn.state.failed_starts + 1
    kept = crashes[-policy.quick_budget - 1 :]
    turn.change(crashes_s=kept, failed_starts=failed_starts, wanted="", retry_at_s=NEVER, attempts=0)
    if len(crashes) > policy.crash_budget and not _goes_on_in_loop(turn, len(crashes), why):
        return
    if len(crashes) > policy.quick_budget:
        failed_starts = max(failed_starts, policy.quick_budget)
    attempts = failed_starts - (_FREE_KILLS if was_killed else 0)
    wait_s = turn.waits.crash_s(attempts) if attempts > 0 else 0.0
    turn.change(start_at_s=turn.now_s + wait_s)
    turn.do(Count(name="envoy_restarts", reason="failure"))
    turn.error(
        f"Envoy is started again {f'in {go_duration(round(wait_s, 3))}' if wait_s else 'at once'} "
        f"(failure {len(crashes)} in {go_duration(policy.crash_window_s)})"
    )
    if not wait_s:
        woken(turn)


def _goes_on_in_loop(turn: Turn, crashes: int, why: str) -> bool:
    """Say that Envoy is in a crash loop; return whether it is tried again."""
    policy = turn.policy
    loop = f"Envoy is in a crash loop: {crashes} failures in {go_duration(policy.crash_window_s)}"
    turn.do(Count(name="envoy_crash_loops", reason="failure"))
    if policy.crash_loop_status:
        turn.error(f"{loop}; the agent ends with {policy.crash_loop_status}")
        ending.envoy_is_over(turn, why, policy.crash_loop_status)
        return False
    turn.error(f"{loop}; this proxy is ready only while Envoy is, and it is tried again")
    return True


def _kill_orphan(turn: Turn, orphan: Generation) -> None:
    """Kill a hot restart whose parent is gone: it would wait 10 s for it and then abort (Envoy 1.40)."""
    turn.put(replace(orphan, signal=int(signal.SIGKILL)))
    turn.do(Signal(generation=orphan, signal=int(signal.SIGKILL)))


def _spawned_unwanted(turn: Turn, event: Spawned) -> None:
    """Kill what was spawned after it had been given up: a quit during the start starts no Envoy."""
    unwanted = Generation(
        generation=event.generation,
        epoch=0,
        base_id=0,
        admin_port=turn.policy.admin_port,
        phase=Phase.INITIALIZING,
        pid=event.pid,
        create_time=event.create_time,
    )
    turn.do(Signal(generation=unwanted, signal=int(signal.SIGKILL)))
