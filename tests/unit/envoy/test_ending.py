"""The planned end of Envoy, step by step; the lines are those of the reference's log."""

from collections.abc import Callable
from signal import SIGKILL, SIGTERM

import pytest

from pilot_agent.envoy.model import (
    NEVER,
    AnnounceDraining,
    ConnectionsCounted,
    CountConnections,
    Drain,
    DrainAnswered,
    DrainWanted,
    EndAgent,
    Found,
    Policy,
    QuitWanted,
    RestartWanted,
    Stage,
)
from tests.support.envoy_life import EXIT_0, EXIT_1, KILLED, Life

QUIT = QuitWanted(cause="terminated")


def draining(policy: Policy | None = None) -> Life:
    return Life(policy=policy or Policy(hot_restart=True)).live().on(QUIT)


def counting() -> Life:
    life = draining(Policy(hot_restart=True, exit_on_zero_active_connections=True, minimum_drain_s=5))
    return life.on(DrainAnswered()).sleep(5)


def test_a_graceful_end_writes_the_lines_of_the_reference_in_their_order() -> None:
    life = Life().live()
    lines = life.on(QUIT).lines
    assert life.did(AnnounceDraining) == [AnnounceDraining(cause="terminated")]
    assert life.did(Drain) == [Drain(admin_port=15000, inbound_only=True, skip_exit=False)]
    lines += life.on(DrainAnswered()).lines
    assert life.wakes_in_s == 5
    lines += life.sleep(5).lines
    assert life.signals == [(0, SIGTERM)]
    lines += life.end(0, EXIT_0).lines
    assert life.did(EndAgent) == [EndAgent(reason="terminated", exit_status=0)]
    assert lines == [
        ("info", "Agent draining Proxy for termination"),
        ("info", "Graceful termination period is 5s, starting..."),
        ("info", "Graceful termination period complete, terminating remaining proxies."),
        ("warn", "Aborting proxy"),
        ("info", "Envoy aborted normally"),
        ("warn", "Aborted proxy instance"),
        ("info", "Agent has successfully terminated"),
    ]
    assert life.wakes_in_s == NEVER


def test_a_router_drains_all_listeners() -> None:
    life = draining(Policy(hot_restart=True, inbound_only=False))
    assert life.did(Drain) == [Drain(admin_port=15000, inbound_only=False, skip_exit=False)]


def test_an_envoy_that_ignores_sigterm_is_killed_a_second_later() -> None:
    life = draining().on(DrainAnswered()).sleep(5)
    assert life.sleep(1).signals == [(0, SIGKILL)]
    assert ("info", "Envoy aborted normally") in life.end(0, KILLED).lines


def test_an_envoy_that_not_even_sigkill_ends_does_not_keep_the_agent() -> None:
    life = draining().on(DrainAnswered()).sleep(6)
    life.sleep(5)
    assert life.did(EndAgent)
    assert any(level == "error" for level, _ in life.lines)


@pytest.mark.parametrize("status", [EXIT_0, EXIT_1, KILLED])
def test_envoy_s_own_end_cuts_the_wait_short(status: int) -> None:
    life = draining().on(DrainAnswered()).sleep(2).end(0, status)
    assert life.lines == [
        ("info", "Graceful termination logic ended prematurely, envoy process terminated early"),
        ("info", "Agent has successfully terminated"),
    ]
    assert life.did(EndAgent)


def test_a_failed_drain_call_is_said_and_the_end_goes_on() -> None:
    life = draining().on(DrainAnswered(admin_port=15000, error="connection refused"))
    assert life.lines[0] == (
        "info",
        "failed draining listeners for Envoy on port 15000: connection refused",
    )
    assert life.lines[1][0] == "warn"
    assert life.wakes_in_s == 5


def test_a_drain_call_without_an_answer_does_not_hold_up_the_end() -> None:
    life = draining().sleep(6)
    assert life.lines[-1] == ("info", "Graceful termination period is 5s, starting...")
    assert life.on(DrainAnswered()).actions == []  # too late, and no second period


AT_ONCE = {
    "quitquitquit": lambda life: life.on(QuitWanted(cause="/quitquitquit called", at_once=True)),
    "drained before": lambda life: life.on(DrainWanted()).on(QUIT),
}


@pytest.mark.parametrize("quits", AT_ONCE.values(), ids=AT_ONCE.keys())
def test_with_nothing_to_drain_envoy_ends_at_once_and_its_end_is_awaited(
    quits: Callable[[Life], Life],
) -> None:
    life = quits(Life().live())
    assert life.lines == [
        ("info", "Agent draining Proxy for termination"),
        ("info", "Agent already drained, exiting immediately"),
        ("warn", "Aborting proxy"),
    ]
    assert life.did(Drain) == []
    assert life.signals == [(0, SIGTERM)]
    assert life.did(EndAgent) == []
    assert life.end(0, EXIT_0).did(EndAgent)


def test_a_second_signal_neither_shortens_nor_lengthens_the_end() -> None:
    life = draining().on(DrainAnswered()).sleep(2)
    assert life.on(QUIT).actions == []
    assert life.wakes_in_s == 3


@pytest.mark.parametrize("answered", [True, False])
def test_a_quit_at_once_shortens_a_drain(answered: bool) -> None:
    life = draining()
    if answered:
        life.on(DrainAnswered()).sleep(2)
    assert life.on(QuitWanted(cause="operator", at_once=True)).signals == [(0, SIGTERM)]
    assert life.on(QuitWanted(cause="operator", at_once=True)).actions == []


def test_the_deadline_of_the_quit_cuts_the_drain_short_in_time_for_the_kill() -> None:
    life = Life(policy=Policy(hot_restart=True, termination_drain_s=600)).live()
    life.on(QuitWanted(cause="terminated", within_s=30)).on(DrainAnswered())
    assert life.wakes_in_s == 28
    assert life.sleep(28).signals == [(0, SIGTERM)]
    assert life.sleep(1).signals == [(0, SIGKILL)]


def test_a_draining_epoch_ends_with_the_serving_one() -> None:
    life = Life().live().on(RestartWanted(reason="rotation")).live(1).on(QUIT).on(DrainAnswered()).sleep(5)
    assert life.signals == [(0, SIGTERM), (1, SIGTERM)]
    assert life.end(1, EXIT_0).did(EndAgent) == []
    assert life.end(0, EXIT_0).did(EndAgent)


def test_a_restart_is_no_more_wanted_once_the_end_has_begun() -> None:
    life = draining().on(RestartWanted(reason="rotation"))
    assert life.state.wanted == ""
    assert life.state.generations[-1].generation == 0


# EXIT_ON_ZERO_ACTIVE_CONNECTIONS: an answer, and what it leads to


def test_the_minimum_drain_is_waited_for_and_then_connections_are_counted() -> None:
    life = counting()
    assert life.did(CountConnections) == [CountConnections(admin_port=15000)]


COUNTS = {
    "none active": (
        ConnectionsCounted(active=0),
        ("info", "There are no more active connections. terminating proxy..."),
        True,
    ),
    "some active": (
        ConnectionsCounted(active=7),
        ("info", "There are still 7 active connections"),
        False,
    ),
    "an error": (
        ConnectionsCounted(error="connection refused"),
        ("error", "Failed to get active connections: connection refused"),
        False,
    ),
}


@pytest.mark.parametrize(("answer", "line", "terminates"), COUNTS.values(), ids=COUNTS.keys())
def test_what_a_count_of_connections_leads_to(
    answer: ConnectionsCounted, line: tuple[str, str], terminates: bool
) -> None:
    life = counting().on(answer)
    assert life.lines[0] == line
    assert bool(life.signals) is terminates
    if not terminates:
        assert life.wakes_in_s == 1
        assert life.sleep(1).did(CountConnections)


def test_statistics_without_connections_end_the_wait_at_once() -> None:
    life = counting().on(ConnectionsCounted())
    assert life.lines[0][1].startswith("downstream_cx_active are not available")
    assert life.signals == [(0, SIGTERM)]


def test_the_fifth_error_in_a_row_ends_the_wait() -> None:
    life = counting()
    error = ConnectionsCounted(error="refused")
    for _ in range(4):
        assert life.on(error).signals == []
        life.sleep(1)
    life.on(ConnectionsCounted(active=1)).sleep(1)  # an answer begins the row anew
    for _ in range(4):
        assert life.on(error).signals == []
        life.sleep(1)
    assert life.on(error).signals == [(0, SIGTERM)]


def test_connections_are_waited_for_as_long_as_there_are_any() -> None:
    life = counting()
    for _ in range(600):
        life.on(ConnectionsCounted(active=1)).sleep(1)
        assert life.did(CountConnections)
    assert life.on(ConnectionsCounted(active=0)).signals == [(0, SIGTERM)]


# EnvoyActor is restarted while the end goes on


def test_a_restarted_actor_goes_on_with_the_drain_to_the_same_deadline() -> None:
    life = draining().on(DrainAnswered()).sleep(2).on(Found(running=Life().live().state.generations))
    assert life.did(AnnounceDraining)
    assert life.did(Drain) == []
    assert life.wakes_in_s == 3


@pytest.mark.parametrize(
    ("seconds", "again"), [(None, Drain), (5.5, None)], ids=["the drain call", "the signals"]
)
def test_a_restarted_actor_does_again_what_may_not_have_been_done(
    seconds: float | None, again: type[Drain] | None
) -> None:
    life = draining()
    if seconds is not None:
        life.on(DrainAnswered()).sleep(seconds)
        assert life.state.ending is not None
        assert life.state.ending.stage is Stage.TERMINATING
    life.on(Found(running=life.state.generations))
    assert life.did(again) if again else (0, SIGTERM) in life.signals


def test_a_restarted_actor_says_again_that_the_agent_may_end() -> None:
    life = draining().on(DrainAnswered()).sleep(5).end(0, EXIT_0)
    assert life.on(Found(running=())).did(EndAgent)


def test_an_end_that_came_while_the_actor_was_away_ends_the_agent() -> None:
    life = draining().on(DrainAnswered()).sleep(5).on(Found(running=()))
    assert life.did(EndAgent)
