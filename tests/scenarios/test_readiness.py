"""Ready means ready, on the agent's own port, with a real Envoy; and what is no reason is none."""

import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from lab.istiod import Istiod
from lab.resources import world_of
from lab.snapshot import LDS, NodeInfo, Resource, Snapshot
from tests.scenarios.conftest import World, agent_for
from tests.support.agent import ROLES, RealAgent
from tests.support.process_tree import wait_ended
from tests.support.status_client import get
from tests.support.waiting import wait_for

CDS_ACCEPTED = "cluster_manager.cds.update_success"
pytestmark = pytest.mark.envoy


def status(agent: RealAgent) -> int:
    return get(agent.status_port, "/healthz/ready").status


def becomes(agent: RealAgent, expected: int, within_s: float) -> None:
    wait_for(lambda: status(agent) == expected, within_s=within_s, what=f"readiness {expected}")


def post(port: int, path: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method="POST")
    urllib.request.urlopen(request, timeout=5).close()


def with_a_bad_listener(world: World, node: NodeInfo) -> Snapshot:
    good = world_of(world.mesh)(node)
    bad = Resource.of("bad", LDS, b"\x0a\x03bad\x12\x00")  # a listener whose address is empty
    return Snapshot(by_type={**good.by_type, LDS: {**good.of_type(LDS), "bad": bad}})


def test_what_leaves_envoy_serving_does_not_take_readiness_away(world: World) -> None:
    agent = world.sidecar
    for role in ROLES:
        killed = psutil.Process(agent.actor_pid(role))
        killed.kill()
        wait_ended([killed])  # or it might take the question with it
        assert status(agent) == 200, f"while {role} restarts"
    world.istiod.push(lambda node: with_a_bad_listener(world, node))
    world.istiod.observed.wait_until(lambda seen: seen.nacks(LDS) >= 1)
    assert status(agent) == 200, "after a rejected update"
    world.istiod.quit()
    agent.wait_log("disconnected from XDS server|connection|upstream")
    assert status(agent) == 200, "without istiod and its CA"
    assert agent.is_ready()


def test_an_envoy_that_is_stopped_or_without_listeners_is_not_ready(world: World) -> None:
    agent = world.sidecar
    (envoy,) = agent.envoys()
    os.kill(envoy.pid, signal.SIGSTOP)
    try:
        becomes(agent, 503, within_s=2)
    finally:
        os.kill(envoy.pid, signal.SIGCONT)
    becomes(agent, 200, within_s=3)
    agent.wait_log("Envoy proxy is NOT ready: Envoy's process is stopped and serves nothing")
    post(agent.admin_port, "/drain_listeners")
    becomes(agent, 503, within_s=3)
    agent.wait_log("Envoy proxy is NOT ready: Envoy's listeners are gone: connections are refused")
    envoy.kill()
    becomes(agent, 200, within_s=20)


def test_an_expired_certificate_that_envoy_uses_ends_readiness_and_a_new_one_brings_it_back(
    world: World,
) -> None:
    agent = world.sidecar
    assert agent.quit() == 0
    agent.environment["CERT_ROTATION_POLICY"] = "sds"
    world.istiod.faults.certificate_ttl_s = 10
    agent.start().wait_ready()
    world.istiod.faults.ca = "unavailable"
    becomes(agent, 503, within_s=20)
    agent.wait_log(r"Envoy proxy is NOT ready: the workload certificate that Envoy uses expired \d+ s ago")
    world.istiod.faults.certificate_ttl_s, world.istiod.faults.ca = None, "up"
    becomes(agent, 200, within_s=70)


def test_before_its_secrets_have_come_an_envoy_with_configuration_is_not_ready(
    workdir: Path, istiod: Istiod
) -> None:
    istiod.faults.ca = "unavailable"

    with agent_for(istiod, workdir) as agent:
        wait_for(lambda: agent.stats("cds.update_success").get(CDS_ACCEPTED), what="accepted clusters")
        agent.wait_log("failed to warm certificate")
        assert status(agent) == 503
        istiod.faults.ca = "up"
        becomes(agent, 200, within_s=40)


def test_draining_ends_readiness_and_the_latch_is_the_references(world: World) -> None:
    agent = world.sidecar
    post(agent.status_port, "/drain")
    becomes(agent, 503, within_s=3)
    agent.wait_log("Envoy proxy is NOT ready: the listeners were drained: /drain was called")
    assert agent.quit() == 0
    agent.environment["READINESS_LATCH"] = "true"
    agent.environment["ENVOY_RESTART_POLICY"] = "on-failure"
    agent.start().wait_ready()
    assert status(agent) == 200
    (envoy,) = agent.envoys()
    os.kill(envoy.pid, signal.SIGSTOP)
    assert status(agent) == 200
    os.kill(envoy.pid, signal.SIGCONT)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{agent.status_port}/drain", timeout=5)
