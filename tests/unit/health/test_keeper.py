"""Readiness belongs to a generation; what was earned is answered from memory."""

import threading
import time

import pytest

from pilot_agent.health.decision import refusal
from pilot_agent.health.generations import Generations
from pilot_agent.health.keeper import ReadinessKeeper
from tests.support.fake_envoy_admin import READY, FakeEnvoyAdmin
from tests.support.http_peer import closed_port


class Asked(ReadinessKeeper):
    """A keeper with the decision on top, as HealthActor has it."""

    latch = False

    def refusal(self) -> str | None:
        return refusal(self.facts(latch=self.latch))


def keeper(generations: Generations, *, latch: bool = False) -> Asked:
    asked = Asked("127.0.0.1", generations, lambda _: None, ready_port=closed_port())
    asked.latch = latch
    return asked


def one(port: int) -> Generations:
    return Generations().started(1, 0, port)


def test_the_stats_asked_for_are_those_of_the_reference_and_only_until_readiness_is_earned() -> None:
    with FakeEnvoyAdmin() as envoy:
        envoy.stats["server.state"] = 2
        asked = keeper(one(envoy.port))
        assert asked.refusal() == "server is not live, current state is: PRE_INITIALIZING"
        envoy.stats = {"server.state": 0, "listener_manager.workers_started": 1}  # no CDS, no LDS any more
        assert asked.refusal() is None
        envoy.stats = {}
        assert asked.refusal() is None
        config = r"^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$"
        live = r"^(server\.state|listener_manager\.workers_started)"
        watched = live + r"|^server\.hot_restart_epoch$|^listener_manager\.total_listeners_active$"
        assert envoy.asked == [f"/stats?usedonly&filter={each}" for each in (config, live, live, watched)]
    assert asked.refusal() is None, "a dead admin port does not take back at once what was earned"


def test_an_admin_port_that_is_not_open_is_told_in_the_words_of_go() -> None:
    port = closed_port()
    text = keeper(one(port)).refusal()
    assert text is not None
    assert text.startswith(f'Get "http://127.0.0.1:{port}/stats?usedonly&filter=^(cluster_manager')
    assert text.endswith(f"dial tcp 127.0.0.1:{port}: connect: connection refused")


def test_another_status_than_200_is_an_error_at_either_step() -> None:
    with FakeEnvoyAdmin() as envoy:
        envoy.status = "503 Service Unavailable"
        assert keeper(one(envoy.port)).refusal() == "unexpected status 503"
        received = one(envoy.port).received_config(1)
        assert keeper(received).refusal() == "failed to get readiness stats: unexpected status 503"


def test_a_silent_admin_port_costs_one_second() -> None:
    with FakeEnvoyAdmin() as envoy:
        envoy.silent = True
        began = time.monotonic()
        text = keeper(one(envoy.port)).refusal()
    assert text is not None
    assert "context deadline exceeded" in text
    assert 0.9 <= time.monotonic() - began < 3


def test_many_questions_at_once_are_one_question_to_envoy() -> None:
    with FakeEnvoyAdmin() as envoy:
        envoy.silent = True
        asked = keeper(one(envoy.port))
        answers: list[str | None] = []
        threads = [
            threading.Thread(target=lambda: answers.append(asked.refusal()), daemon=True) for _ in range(6)
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(answers) == 6
        assert time.monotonic() - began < 3.5, "one second each would be six"
        assert len(envoy.peers) <= 2


def test_draining_ends_readiness_whatever_was_earned() -> None:
    ready = one(9).earned(1).draining("signal: terminated")
    assert keeper(ready).refusal() == "server is terminated: signal: terminated"


def test_without_envoy_nothing_is_ready() -> None:
    assert keeper(Generations()).refusal() == "Envoy was not started yet"
    ended = one(9).earned(1).exited(1, "signal: killed")
    assert keeper(ended).refusal() == "Envoy has ended: signal: killed"


def test_a_new_epoch_must_earn_readiness_and_the_old_one_counts_until_it_ends() -> None:
    with FakeEnvoyAdmin() as old, FakeEnvoyAdmin() as new:
        new.stats = READY | {"server.state": 3, "server.hot_restart_epoch": 1}
        both = one(old.port).earned(1).started(2, 1, new.port)
        asked = keeper(both)
        assert asked.refusal() is None
        assert not new.asked, "nobody is asked while one is ready"
        asked.apply(lambda state: state.exited(1, "exit status 0"))
        assert asked.refusal() == "server is not live, current state is: INITIALIZING"
        new.stats["server.state"] = 0
        assert asked.refusal() is None


def test_the_parent_behind_the_shared_admin_port_does_not_make_the_child_ready() -> None:
    with FakeEnvoyAdmin(READY | {"server.hot_restart_epoch": 0}) as shared:
        asked = keeper(one(shared.port).started(2, 1, shared.port))
        assert asked.refusal() is None, "epoch 0 itself is ready"
        found = asked.generations.find(2)
        assert found is not None
        assert not found.config_received
        assert not found.ready


def test_a_live_epoch_earns_readiness_though_no_probe_asks() -> None:
    changes: list[Generations] = []
    earned = threading.Event()

    def changed(state: Generations) -> None:
        changes.append(state)
        if all(each.ready for each in state.alive) and len(state.alive) == 2:
            earned.set()

    with FakeEnvoyAdmin(
        READY | {"server.hot_restart_epoch": 1, "listener_manager.workers_started": 0}
    ) as envoy:
        asked = ReadinessKeeper("127.0.0.1", one(9).earned(1).started(2, 1, envoy.port), changed)
        thread = threading.Thread(target=asked.earn, daemon=True)
        thread.start()
        asked.apply(lambda state: state.went_live(2))
        while not envoy.asked:
            assert thread.is_alive()
        envoy.stats["listener_manager.workers_started"] = 1
        assert earned.wait(5)
        asked.close()
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("held", [(2,), ()])
def test_what_ended_unseen_is_dropped(held: tuple[int, ...]) -> None:
    both = one(9).started(2, 1, 9).held(held)
    assert tuple(each.generation for each in both.alive) == held


def test_a_generation_told_twice_keeps_what_it_earned() -> None:
    assert one(9).earned(1).started(1, 0, 9).any_ready()


def test_the_latch_is_the_references_nothing_takes_readiness_back_but_the_end() -> None:
    asked = keeper(one(closed_port()).earned(1).exited(1, "signal: killed"), latch=True)
    assert asked.refusal() is None
    asked.apply(lambda state: state.draining("signal: terminated"))
    assert asked.refusal() == "server is terminated: signal: terminated"
    assert keeper(Generations(), latch=True).refusal() == "Envoy was not started yet", "nothing was earned"


def test_with_the_latch_an_empty_answer_is_not_ready_before_the_first_success_and_no_news_after_it() -> None:
    with FakeEnvoyAdmin({}) as envoy:
        asked = keeper(one(envoy.port), latch=True)
        for _ in range(2):
            assert (asked.refusal() or "").startswith("config not received from XDS server")
        envoy.stats = dict(READY)
        assert asked.refusal() is None
        envoy.stats = {}
        assert asked.refusal() is None
    assert asked.refusal() is None, "nobody is there"


def test_a_drain_by_an_operator_ends_readiness_until_a_new_envoy_has_earned_its_own() -> None:
    with FakeEnvoyAdmin() as envoy:
        asked = keeper(one(envoy.port).earned(1))
        asked.apply(Generations.were_drained)
        assert asked.refusal() == "the listeners were drained: /drain was called"
        asked.apply(lambda state: state.exited(1, "signal: killed").started(2, 0, envoy.port).earned(2))
        assert asked.refusal() is None
