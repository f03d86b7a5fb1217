"""Actors killed while requests flow: nobody notices."""

import os
import signal
import time
from functools import partial

import pytest

from tests.scenarios.conftest import World
from tests.support.agent import ROLES
from tests.support.load import Load
from tests.support.process_tree import wait_ended
from tests.support.real_envoy import get
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy


def reborn(world: World, role: str, old: int) -> float:
    """Return how many milliseconds after now a successor of `old` lives."""
    begin_s = time.monotonic()
    wait_for(lambda: (pid := world.sidecar.actor(role)) is not None and pid != old, what=f"a new {role}")
    return (time.monotonic() - begin_s) * 1000


@pytest.mark.parametrize("role", ROLES)
def test_no_request_fails_when_this_actor_is_killed(world: World, role: str) -> None:
    envoy = [process.pid for process in world.sidecar.envoys()]
    with Load(world.port, "/productpage", keep_alive=2, new_connections=2) as load:
        wait_for(lambda: load.sent > 100, what="load")
        for _ in range(3):
            old = world.sidecar.actor_pid(role)
            os.kill(old, signal.SIGKILL)
            assert reborn(world, role, old) < 1000
            load.wait_more()
        assert world.sidecar.is_ready()
    assert load.failures == []
    assert [process.pid for process in world.sidecar.envoys()] == envoy


def test_a_configuration_change_still_arrives_after_every_actor_was_killed(world: World) -> None:
    for role in ROLES:
        old = world.sidecar.actor_pid(role)
        os.kill(old, signal.SIGKILL)
        reborn(world, role, old)
        old = world.router.actor_pid(role)
        os.kill(old, signal.SIGKILL)
    world.istiod.push(world.mesh.with_split("reviews", {"v2": 100}))
    wait_for(
        lambda: {get(world.port, "/reviews/0")[0]["x-served-by"] for _ in range(10)} == {"reviews-v2"},
        within_s=20,
        what="the new weights at work",
    )
    assert world.istiod.observed.nack_messages() == []


def test_killed_all_at_once_nothing_is_dropped_and_envoys_stay(world: World) -> None:
    envoy = [process.pid for process in world.sidecar.envoys()]
    with Load(world.port, "/productpage") as load:
        wait_for(lambda: load.sent > 50, what="load")
        pids = {role: world.sidecar.actor_pid(role) for role in ROLES}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for role, pid in pids.items():
            reborn(world, role, pid)
        wait_for(world.sidecar.is_ready, what="being ready again")
        load.wait_more()
    assert load.failures == []
    assert [process.pid for process in world.sidecar.envoys()] == envoy


def has_more_streams(world: World, than: int) -> bool:
    return len(world.istiod.observed.streams) > than


def test_envoys_ads_stream_stays_open_while_the_upstream_half_dies(world: World) -> None:
    pattern = "xds-grpc.*upstream_(rq_total|cx_total|rq_active)"
    before = world.sidecar.stats(pattern)
    assert before["cluster.xds-grpc;.upstream_rq_active"] == 1
    for _ in range(3):
        streams = len(world.istiod.observed.streams)
        old = world.sidecar.actor_pid("upstream-xds")
        os.kill(old, signal.SIGKILL)
        reborn(world, "upstream-xds", old)
        wait_for(partial(has_more_streams, world, streams), what="the stream's reopening at istiod")
    assert world.sidecar.stats(pattern) == before


def test_the_ca_is_not_asked_again_after_a_death_of_cert_or_sds(world: World) -> None:
    before, serial = world.istiod.observed.csrs_signed(), world.sidecar.serial()
    connections = world.sidecar.log().count("ADS: new connection")
    for role in ("cert", "sds", "cert", "sds"):
        old = world.sidecar.actor_pid(role)
        os.kill(old, signal.SIGKILL)
        reborn(world, role, old)
    wait_for(
        lambda: world.sidecar.log().count("ADS: new connection") >= connections + 2,
        what="Envoy's reconnection",
    )
    assert world.istiod.observed.csrs_signed() == before
    assert world.sidecar.serial() == serial


def test_an_envoy_that_is_killed_is_started_again(world: World) -> None:
    (old,) = world.sidecar.envoys()
    old.kill()
    wait_for(lambda: [p.pid for p in world.sidecar.envoys()] not in ([], [old.pid]), what="a new Envoy")
    wait_for(world.sidecar.is_ready, what="being ready again")
    wait_for(lambda: get(world.port, "/productpage")[1], what="a request served")
    assert world.sidecar.process is not None
    assert world.sidecar.process.poll() is None
    assert "Envoy exited with error: signal: killed" in world.sidecar.log()


@pytest.mark.parametrize("policy", ["hot-restart", "sds"])
def test_a_killed_supervisor_takes_everything_with_it(world: World, policy: str) -> None:
    agent = world.sidecar
    assert agent.process is not None
    if policy == "sds":
        assert agent.quit() == 0
        agent.environment["CERT_ROTATION_POLICY"] = "sds"
        agent.start().wait_ready()
    family = agent.family()
    assert len(family) >= 7
    agent.process.kill()
    agent.process.wait(10)
    assert wait_ended(family) == []
