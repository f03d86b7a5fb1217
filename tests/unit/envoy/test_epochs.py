"""What becomes of Envoy's generations, as tables: what happened, and what is done about it."""

from signal import SIGCONT, SIGKILL, SIGTERM

import msgspec
import pytest

from pilot_agent.envoy.model import (
    NEVER,
    Announce,
    Begun,
    Clear,
    Count,
    Drain,
    DrainWanted,
    EndAgent,
    Fail,
    Found,
    Generation,
    Phase,
    Policy,
    Prepare,
    Prepared,
    QuitWanted,
    RestartWanted,
    SeenLive,
    Spawn,
    SpawnFailed,
    State,
    StopSeen,
    Watch,
)
from tests.support.envoy_life import EXIT_0, EXIT_1, KILLED, TERMINATED, Life


def test_the_first_envoy_is_prepared_spawned_watched_and_announced() -> None:
    life = Life().on(Begun())
    (prepare,) = life.did(Prepare)
    assert (prepare.generation.generation, prepare.generation.epoch, prepare.validate) == (0, 0, False)

    (spawn,) = life.prepare(0).did(Spawn)
    assert (spawn.generation.base_id, spawn.generation.admin_port) == (700, 15000)
    assert life.phases == {0: Phase.SPAWNING}

    life.spawn(0)
    assert [each.what for each in life.did(Announce)] == ["started"]
    assert life.did(Watch)[0].generation.pid == 100

    life.on(SeenLive(generation=0))
    assert [each.what for each in life.did(Announce)] == ["live"]
    assert life.phases == {0: Phase.LIVE}
    assert life.wakes_in_s == NEVER


def test_a_second_begin_starts_nothing() -> None:
    assert Life().live().on(Begun()).actions == []


def test_a_bootstrap_that_cannot_be_made_at_the_first_start_ends_the_agent_with_an_error() -> None:
    life = Life().on(Begun()).on(Prepared(generation=0, refusal="failed to initialize envoy agent: no"))
    (fail,) = life.did(Fail)
    assert fail.reason == "failed to initialize envoy agent: no"
    assert life.phases == {}


@pytest.mark.parametrize(
    "policy", [Policy(hot_restart=True), Policy(hot_restart=False, restart_on_failure=False)]
)
def test_a_first_envoy_that_cannot_be_executed_ends_the_agent_with_0_and_is_not_tried_again(
    policy: Policy,
) -> None:
    life = Life(policy=policy).on(Begun()).prepare(0)
    life.on(SpawnFailed(generation=0, reason="fork/exec /x/envoy: no such file or directory"))
    assert ("error", "Envoy exited with error: fork/exec /x/envoy: no such file or directory") in life.lines
    assert [each.exit_status for each in life.did(EndAgent)] == [0]
    assert life.wakes_in_s == NEVER


@pytest.mark.parametrize("reason", ["resource temporarily unavailable", "text file busy"])
def test_an_exec_that_fails_for_a_reason_that_may_pass_is_tried_again(reason: str) -> None:
    life = Life().on(Begun()).prepare(0).on(SpawnFailed(generation=0, reason=f"fork/exec /x: {reason}"))
    assert life.did(EndAgent) == []
    assert life.sleep(0.2).did(Prepare)


def test_an_envoy_that_ran_and_cannot_be_executed_any_more_is_tried_again() -> None:
    life = Life().live().end(0, KILLED).prepare(1)
    life.on(SpawnFailed(generation=1, reason="fork/exec /x: no such file or directory"))
    assert life.did(EndAgent) == []
    assert life.sleep(0.2).did(Prepare)


# An end: (policy, wait status) -> what the log says, and whether it is started again.

ENDS = {
    "exit 0 ends the agent": (True, EXIT_0, [("info", "Envoy exited normally")], False),
    "exit 1 is started again": (True, EXIT_1, [("error", "Envoy exited with error: exit status 1")], True),
    "SIGKILL may be memory": (
        True,
        KILLED,
        [
            ("warn", "Envoy may have been out of memory killed. Check memory usage and limits."),
            ("error", "Envoy exited with error: signal: killed"),
        ],
        True,
    ),
    "SIGTERM of somebody else": (
        True,
        TERMINATED,
        [("error", "Envoy exited with error: signal: terminated")],
        True,
    ),
    "an end that nobody saw": (
        True,
        None,
        [("error", "Envoy exited with error: its end was not seen")],
        True,
    ),
    "policy never, exit 0": (False, EXIT_0, [("info", "Envoy exited normally")], False),
    "policy never, exit 1": (False, EXIT_1, [("error", "Envoy exited with error: exit status 1")], False),
}


@pytest.mark.parametrize("phase", [Phase.INITIALIZING, Phase.LIVE])
@pytest.mark.parametrize(("restarts", "status", "lines", "again"), ENDS.values(), ids=ENDS.keys())
def test_what_an_end_of_envoy_means(
    phase: Phase, restarts: bool, status: int | None, lines: list[tuple[str, str]], again: bool
) -> None:
    life = Life(policy=Policy(hot_restart=True, restart_on_failure=restarts)).start()
    if phase is Phase.LIVE:
        life.on(SeenLive(generation=0))
    life.end(0, status)

    assert life.lines[: len(lines)] == lines
    (clear,) = life.did(Clear)
    assert (clear.generation.bootstrap_path, clear.base_id_is_free) == ("envoy-rev0.json", True)
    if again:
        assert life.did(EndAgent) == []
        waits = phase is Phase.INITIALIZING and status != KILLED
        assert life.wakes_in_s == (0.2 if waits else NEVER)
        (prepare,) = life.did(Prepare) or life.sleep(0.2).did(Prepare)
        assert (prepare.generation.generation, prepare.generation.epoch, prepare.generation.base_id) == (
            1,
            0,
            0,
        )
        assert not prepare.validate
    else:
        assert [each.exit_status for each in life.did(EndAgent)] == [0]
        assert life.lines[-1] == ("info", "Agent has successfully terminated")
        assert life.wakes_in_s == NEVER


def test_the_wait_grows_with_each_start_that_fails_and_beyond_the_budget_it_is_a_crash_loop() -> None:
    life = Life(policy=Policy(hot_restart=True, crash_budget=3))
    life.start()
    waits = []
    for generation in range(3):
        life.end(generation, EXIT_1)
        assert not life.did(Count)[-1].name.startswith("envoy_crash_loop")
        waits.append(life.wakes_in_s)
        life.sleep(waits[-1]).start(generation + 1)
    assert waits == [0.2, 0.4, 0.8]

    life.end(3, EXIT_1)
    assert life.did(EndAgent) == []
    assert Count(name="envoy_crash_loops", reason="failure") in life.did(Count)
    assert any("is in a crash loop: 4 failures in 5m0s" in text for level, text in life.lines)
    assert life.wakes_in_s == 1.6


def test_a_crash_loop_ends_the_agent_with_the_status_that_was_configured() -> None:
    life = Life(policy=Policy(hot_restart=True, crash_budget=1, crash_loop_status=77)).start()
    life.end(0, EXIT_1).sleep(0.2).start(1).end(1, EXIT_1)
    assert [each.exit_status for each in life.did(EndAgent)] == [77]
    assert life.wakes_in_s == NEVER


def test_an_envoy_that_was_live_is_started_again_at_once_a_hundred_times() -> None:
    life = Life().live()
    for generation in range(100):
        (prepare,) = life.end(generation, KILLED).did(Prepare)
        assert prepare.generation.generation == generation + 1
        life.live(generation + 1).sleep(0.3)
    assert life.end(100, KILLED).did(Prepare) == []
    assert life.wakes_in_s > 10
    assert len(life.state.crashes_s) == 101


def test_ten_kills_of_envoys_that_are_not_live_yet_cost_no_wait_and_the_next_does() -> None:
    life = Life().start()
    for generation in range(10):
        assert life.end(generation, KILLED).did(Prepare)
        life.start(generation + 1)
    assert life.end(10, KILLED).did(Prepare) == []
    assert life.wakes_in_s == 0.2


def test_a_start_that_succeeds_lets_the_waits_begin_anew() -> None:
    life = Life().start().end(0, EXIT_1).sleep(0.2).start(1).end(1, EXIT_1)
    assert life.wakes_in_s == 0.4
    life.sleep(0.4).live(2).end(2, KILLED).start(3).end(3, EXIT_1)
    assert life.wakes_in_s == 0.2


def test_crashes_before_the_window_are_forgotten() -> None:
    life = Life(policy=Policy(hot_restart=True, crash_budget=1)).start()
    life.end(0, EXIT_1).sleep(0.2).live(1).sleep(301)
    life.end(1, EXIT_1)
    assert len(life.state.crashes_s) == 1
    assert not any("crash loop" in text for _, text in life.lines)


def test_a_crashed_envoy_whose_bootstrap_cannot_be_written_is_tried_again_within_the_budget() -> None:
    life = Life().start().end(0, EXIT_1).sleep(0.2)
    life.on(Prepared(generation=1, refusal="etc/istio/proxy/envoy-rev1.json: No space left on device"))
    assert life.did(Fail) == []
    assert life.wakes_in_s == 0.4
    assert life.sleep(0.4).did(Prepare)


# Hot restart


def test_a_rotation_starts_the_next_epoch_of_the_same_base_id_and_validates_it_first() -> None:
    life = Life().live().on(RestartWanted(reason="rotation"))
    (prepare,) = life.did(Prepare)
    new = prepare.generation
    assert (new.generation, new.epoch, new.base_id, new.admin_port, new.replaces) == (1, 1, 700, 15000, 0)
    assert prepare.validate
    assert life.phases == {0: Phase.LIVE, 1: Phase.PREPARING}


def test_the_old_epoch_drains_when_the_new_one_is_live_and_its_end_is_no_crash() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).live(1)
    assert life.phases == {0: Phase.DRAINING, 1: Phase.LIVE}
    assert life.did(Count) == [Count(name="hot_restarts", reason="rotation")]
    assert life.did(Drain) == []  # Envoy's own hot restart does that

    life.sleep(60).end(0, EXIT_0)
    assert ("info", "Envoy epoch 0 ended: exit status 0") in life.lines
    assert life.did(Clear)[0].base_id_is_free is False
    assert life.phases == {1: Phase.LIVE}
    assert life.wakes_in_s == NEVER


def test_an_old_epoch_that_does_not_end_by_itself_gets_sigterm_and_then_sigkill() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).live(1)
    assert life.wakes_in_s == 65
    assert life.sleep(65).signals == [(0, SIGTERM)]
    assert life.sleep(5).signals == [(0, SIGKILL)]
    assert life.wakes_in_s == NEVER
    life.end(0, KILLED)
    assert not any(level == "error" for level, _ in life.lines)


def test_wishes_that_come_together_are_one_restart() -> None:
    life = Life().live().on(RestartWanted(reason="rotation"))
    for reason in ("rotation", "signal", "operator", "signal"):
        assert life.on(RestartWanted(reason=reason)).did(Prepare) == []
    assert life.state.wanted == "signal+operator"  # the rotation is covered by the one under way

    life.live(1)
    assert life.did(Prepare) == []  # the old one still drains: never three at once
    (prepare,) = life.end(0, EXIT_0).did(Prepare)
    assert (prepare.generation.epoch, prepare.generation.reason) == (2, "signal+operator")
    assert life.state.wanted == ""


def test_a_rotation_while_the_old_epoch_drains_is_done_after_its_end() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).live(1).on(RestartWanted(reason="rotation"))
    assert life.did(Count) == [Count(name="hot_restart_refused", reason="in_flight")]
    (prepare,) = life.end(0, EXIT_0).did(Prepare)
    assert prepare.generation.epoch == 2


@pytest.mark.parametrize("stage", ["prepared", "started", "crashed"])
def test_a_rotation_before_envoy_is_live_needs_no_restart(stage: str) -> None:
    life = Life().on(Begun()) if stage == "prepared" else Life().start()
    if stage == "crashed":
        life.end(0, EXIT_1)
    life.on(RestartWanted(reason="rotation"))
    assert life.state.wanted == ""
    assert life.did(Prepare) == []


def test_an_operator_s_wish_before_live_is_done_when_it_is_live() -> None:
    life = Life().start().on(RestartWanted(reason="signal"))
    assert life.did(Count) == [Count(name="hot_restart_refused", reason="not_live")]
    assert life.on(SeenLive(generation=0)).did(Prepare)[0].generation.epoch == 1


def test_without_hot_restart_a_wish_is_refused_and_forgotten() -> None:
    life = Life(policy=Policy(hot_restart=False)).live().on(RestartWanted(reason="signal"))
    assert life.did(Count) == [Count(name="hot_restart_refused", reason="disabled")]
    assert life.state.wanted == ""
    assert life.wakes_in_s == NEVER


def test_a_refused_restart_leaves_the_running_epoch_and_is_tried_again_with_growing_waits() -> None:
    life = Life().live().on(RestartWanted(reason="rotation"))
    for attempt in (1, 2):
        life.on(Prepared(generation=attempt, base_id=700, admin_port=15000, refusal="not enough memory"))
        assert life.phases == {0: Phase.LIVE}
        assert life.did(Count) == [Count(name="hot_restart_refused", reason="refused")]
        assert life.did(Clear)[0].base_id_is_free is False
        assert life.wakes_in_s == 10.0 * attempt
        (prepare,) = life.sleep(life.wakes_in_s).did(Prepare)
        assert prepare.generation.epoch == 1  # nothing was started: the base id is as good as before
    life.live(3)
    assert life.state.attempts == 0


def test_a_new_epoch_that_does_not_come_live_is_said_once_and_not_killed() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).start(1)
    life.sleep(60)
    assert [level for level, _ in life.lines] == ["warn"]
    assert life.sleep(3600).actions == []
    assert life.phases == {0: Phase.LIVE, 1: Phase.INITIALIZING}
    assert life.on(SeenLive(generation=1)).phases == {0: Phase.DRAINING, 1: Phase.LIVE}


# A failed epoch


def failed_hot_restart() -> Life:
    return Life().live().on(RestartWanted(reason="rotation")).start(1).end(1, EXIT_1)


def twice_failed_hot_restart() -> Life:
    """Return a life whose next restart is in a fifth of a second: generation 3."""
    return failed_hot_restart().sleep(0.2).start(2).end(2, EXIT_1)


def test_after_a_failed_epoch_the_same_base_id_is_tried_once_more() -> None:
    (prepare,) = failed_hot_restart().sleep(0.2).did(Prepare)
    new = prepare.generation
    assert (new.generation, new.epoch, new.base_id, new.admin_port) == (2, 1, 700, 15000)
    assert prepare.validate


def test_a_success_forgets_the_failed_epochs() -> None:
    life = failed_hot_restart().sleep(0.2).live(2).end(0, EXIT_0)
    assert (life.state.failed_hot, life.state.spoiled_base_id) == (0, 0)


def test_a_base_id_whose_memory_cannot_be_healed_is_left_at_once() -> None:
    life = failed_hot_restart().sleep(0.2)
    life.on(Prepared(generation=2, base_id=700, refusal="of another version", refused_for="spoiled"))
    assert life.did(Count) == [Count(name="hot_restart_refused", reason="spoiled")]
    (prepare,) = life.sleep(0.2).did(Prepare)
    assert (prepare.generation.epoch, prepare.generation.base_id, prepare.generation.admin_port) == (0, 0, 0)


def test_too_little_memory_is_counted_by_its_name_and_asked_again_later() -> None:
    life = Life().live().on(RestartWanted(reason="rotation"))
    life.on(Prepared(generation=1, refusal="not enough memory", refused_for="memory"))
    assert life.did(Count) == [Count(name="hot_restart_refused", reason="memory")]
    assert life.phases == {0: Phase.LIVE}
    assert life.sleep(10).did(Prepare)


def test_a_failed_epoch_leaves_the_old_one_serving() -> None:
    life = failed_hot_restart()
    assert life.phases == {0: Phase.LIVE}
    assert life.did(Count) == [Count(name="hot_restart_failed", reason="rotation")]
    assert life.did(Clear)[0].base_id_is_free is False
    assert life.did(EndAgent) == []
    assert life.wakes_in_s == 0.2  # its parent's admin port is gone: the other way is tried soon


def test_after_two_failed_epochs_the_next_restart_overlaps_with_a_fresh_base_id_and_admin_port() -> None:
    life = twice_failed_hot_restart().sleep(0.2)
    (prepare,) = life.did(Prepare)
    new = prepare.generation
    assert (new.generation, new.epoch, new.base_id, new.admin_port, new.reason) == (3, 0, 0, 0, "rotation")
    assert prepare.validate

    old = life[0]
    life.live(3)
    assert life.phases == {0: Phase.DRAINING, 3: Phase.LIVE}
    (drain,) = life.did(Drain)
    assert (drain.admin_port, drain.past_admin, drain.inbound_only, drain.skip_exit) == (
        15000,
        old,
        False,
        False,
    )
    assert drain.successor is not None
    assert (drain.successor.generation, drain.successor.admin_port) == (3, life[3].admin_port)
    assert life[3].admin_port == 40003
    assert life.sleep(60).signals == [(0, SIGTERM)]

    (prepare,) = life.end(0, EXIT_0).did(Prepare)  # brings the admin port back
    assert (prepare.generation.epoch, prepare.generation.base_id) == (1, 703)
    assert (prepare.generation.admin_port, prepare.generation.reason) == (15000, "admin_port")
    assert life.live(4).did(Drain) == []


def test_a_failed_overlapping_start_is_tried_again_too_and_spoils_nothing_more() -> None:
    life = twice_failed_hot_restart().sleep(0.2).start(3).end(3, EXIT_1)
    assert life.phases == {0: Phase.LIVE}
    assert life.state.spoiled_base_id == 700
    assert life.did(Clear)[0].base_id_is_free is True
    assert life.sleep(30).did(Prepare)[0].generation.generation == 4


def test_a_hot_restart_that_cannot_be_executed_leaves_the_old_one_serving() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).prepare(1)
    life.on(SpawnFailed(generation=1, reason="fork/exec envoy: permission denied"))
    assert life.phases == {0: Phase.LIVE}
    assert life.did(EndAgent) == []
    assert life.state.spoiled_base_id == 0


# Crashes in the middle of a hot restart


def test_a_crash_while_the_next_is_prepared_makes_it_a_cold_start() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).end(0, KILLED)
    assert life.phases == {2: Phase.PREPARING}
    (prepare,) = life.did(Prepare)
    life.on(Prepared(generation=1, base_id=700, bootstrap_path="x"))
    assert life.did(Spawn) == []
    assert [(each.generation.bootstrap_path, each.base_id_is_free) for each in life.did(Clear)] == [
        ("x", False)
    ]
    assert (prepare.generation.epoch, prepare.generation.base_id) == (0, 0)


@pytest.mark.parametrize("spawned_first", [True, False])
def test_a_hot_restart_whose_parent_died_is_killed_and_a_cold_start_follows(spawned_first: bool) -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).prepare(1)
    if spawned_first:
        life.spawn(1).end(0, KILLED)
    else:
        life.end(0, KILLED).spawn(1)
    assert life.signals == [(1, SIGKILL)]
    life.end(1, KILLED)
    assert not any("out of memory" in text for _, text in life.lines)
    (prepare,) = life.did(Prepare)
    assert (prepare.generation.generation, prepare.generation.epoch) == (2, 0)


def test_a_crash_after_a_hot_restart_is_a_cold_start_beside_the_draining_one() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).live(1).end(1, EXIT_1)
    assert life.phases == {0: Phase.DRAINING, 2: Phase.PREPARING}
    life.live(2)
    assert life.phases == {0: Phase.DRAINING, 2: Phase.LIVE}
    assert life.did(Drain) == []  # the admin port is the new one's
    assert life[0].due_s - life.now_s == pytest.approx(65)


def test_an_overlapping_start_goes_on_when_the_old_one_dies() -> None:
    life = twice_failed_hot_restart().sleep(0.2).start(3).end(0, KILLED)
    assert life.signals == []
    assert life.phases == {3: Phase.INITIALIZING}
    assert life.did(Prepare) == []
    assert life.on(SeenLive(generation=3)).phases == {3: Phase.LIVE}


def test_a_normal_end_after_a_hot_restart_ends_the_agent_and_the_draining_one() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).live(1).end(1, EXIT_0)
    assert life.signals == [(0, SIGTERM)]
    assert life.did(EndAgent) == []
    assert [each.exit_status for each in life.end(0, EXIT_0).did(EndAgent)] == [0]


# An EnvoyActor that lives again


def process(generation: int, phase: Phase = Phase.INITIALIZING) -> Generation:
    return Generation(
        generation=generation,
        epoch=generation,
        base_id=700,
        admin_port=15000,
        phase=phase,
        pid=100 + generation,
        create_time=5.0 + generation,
    )


def restarted(life: Life, *running: int) -> Life:
    life.state = msgspec.msgpack.decode(msgspec.msgpack.encode(life.state), type=State)
    return life.on(Found(running=tuple(process(each) for each in running)))


def test_a_live_envoy_is_found_again_and_left_alone() -> None:
    life = restarted(Life().live(), 0)
    assert life.actions == []
    assert life.phases == {0: Phase.LIVE}


def test_an_initializing_envoy_is_watched_again() -> None:
    assert [each.generation.generation for each in restarted(Life().start(), 0).did(Watch)] == [0]


def test_what_was_being_prepared_is_prepared_again() -> None:
    (prepare,) = restarted(Life().live().on(RestartWanted(reason="rotation")), 0).did(Prepare)
    assert (prepare.generation.generation, prepare.validate) == (1, True)


@pytest.mark.parametrize("known_to_the_supervisor", [True, False])
def test_a_spawn_without_an_answer_is_asked_again_unless_it_was_done(known_to_the_supervisor: bool) -> None:
    life = restarted(Life().on(Begun()).prepare(0), *([0] if known_to_the_supervisor else []))
    assert bool(life.did(Spawn)) is not known_to_the_supervisor
    assert bool(life.did(Watch)) is known_to_the_supervisor


def test_an_envoy_that_vanished_unseen_is_started_again() -> None:
    life = restarted(Life().live())
    assert life.phases == {1: Phase.PREPARING}
    assert len(life.did(Prepare)) == 1


# Stopped


def test_a_stopped_envoy_is_let_go_on_after_half_a_second() -> None:
    life = Life().live().on(StopSeen(generation=0, stopped=True))
    assert life.wakes_in_s == 0.5
    assert life.sleep(0.5).signals == [(0, SIGCONT)]
    assert life.did(Count) == [Count(name="envoy_continued", reason="stopped")]
    assert life.on(StopSeen(generation=0, stopped=False)).wakes_in_s == NEVER


def test_one_that_goes_on_by_itself_is_left_alone() -> None:
    life = Life().live().on(StopSeen(generation=0, stopped=True)).sleep(0.2)
    life.on(StopSeen(generation=0, stopped=False))
    assert life.sleep(1).actions == []


def test_one_that_is_stopped_again_and_again_is_killed_and_started_anew() -> None:
    life = Life().live()
    for _ in range(5):
        assert life.on(StopSeen(generation=0, stopped=True)).sleep(0.5).signals == [(0, SIGCONT)]
    life.on(StopSeen(generation=0, stopped=True)).sleep(0.5)
    assert life.signals == [(0, SIGKILL)]
    life.end(0, KILLED)
    assert not any("out of memory" in text for _, text in life.lines)
    assert life.did(Prepare)


def test_an_envoy_that_takes_over_while_the_agent_ends_is_drained_too() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).start(1).on(QuitWanted(cause="signal"))
    life.on(SeenLive(generation=1))
    assert [each.admin_port for each in life.did(Drain)] == [15000]
    assert life.phases == {0: Phase.DRAINING, 1: Phase.LIVE}


def test_a_lost_notebook_takes_over_what_runs_and_lets_the_older_one_end() -> None:
    life = restarted(Life(), 3, 4)
    assert life.phases == {3: Phase.INITIALIZING, 4: Phase.INITIALIZING}
    assert life.did(Prepare) == []
    life.on(SeenLive(generation=4))
    assert life.phases == {3: Phase.DRAINING, 4: Phase.LIVE}
    assert life.state.next_generation == 5


def test_a_drain_deadline_is_kept_over_a_restart_of_the_actor() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).live(1).sleep(20)
    restarted(life, 0, 1)
    assert life.wakes_in_s == 45


def test_a_first_start_that_nobody_noted_is_done_after_the_restart() -> None:
    assert restarted(Life()).did(Prepare)[0].generation.generation == 0


# Not started after a quit


@pytest.mark.parametrize("stage", ["preparing", "waiting"])
def test_a_quit_before_the_start_starts_no_envoy_afterwards(stage: str) -> None:
    life = Life().on(Begun())
    if stage == "waiting":
        life.prepare(0).spawn(0).end(0, EXIT_1)
    life.on(QuitWanted(cause="signal"))
    assert [each.exit_status for each in life.did(EndAgent)] == [0]
    assert life.phases == {}
    life.on(Prepared(generation=0, base_id=700, bootstrap_path="x"))
    assert life.did(Spawn) == []
    assert life.sleep(100).actions == []


def test_a_quit_while_envoy_is_spawned_kills_it_as_soon_as_it_is_there() -> None:
    life = Life().on(Begun()).prepare(0).on(QuitWanted(cause="signal"))
    assert life.did(EndAgent) == []
    assert life.spawn(0).signals == [(0, SIGKILL)]
    assert life.did(Announce) == []
    life.end(0, KILLED)
    assert life.did(EndAgent)
    assert life.did(Clear)[0].base_id_is_free is True


def test_a_quit_does_not_wait_long_for_a_spawn_that_is_held_back() -> None:
    spawning = Life().on(Begun()).prepare(0).on(QuitWanted(cause="signal"))
    assert spawning.sleep(1).did(EndAgent)
    assert spawning.spawn(0).signals == [(0, SIGKILL)]

    refused = Life().on(Begun()).prepare(0).on(QuitWanted(cause="signal"))
    assert refused.on(SpawnFailed(generation=0, reason="the agent is ending")).did(EndAgent)
    assert not any(level == "error" for level, _ in refused.lines)


def test_after_a_drain_no_restart_brings_new_listeners() -> None:
    life = Life().live().on(DrainWanted())
    assert life.did(Drain) == [Drain(admin_port=15000, inbound_only=True, skip_exit=True)]
    life.on(RestartWanted(reason="rotation"))
    assert life.did(Prepare) == []
    assert life.did(Count) == [Count(name="hot_restart_refused", reason="draining")]
