"""A certificate is rotated: pushed over SDS at once, then Envoy is hot-restarted."""

import pytest

from tests.scenarios.conftest import World
from tests.support.load import Load
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy


def test_a_rotation_moves_envoy_to_the_new_certificate_and_epoch_without_a_failed_request(
    world: World,
) -> None:
    agent = world.sidecar
    assert agent.quit() == 0
    world.istiod.faults.certificate_ttl_s = 24  # due after half of it
    agent.start().wait_ready()
    serial = agent.serial()
    assert agent.restart_epoch() == 0
    with Load(world.port, "/productpage", keep_alive=2, new_connections=2) as load:
        wait_for(lambda: agent.serial() != serial, within_s=40, what="a new serial number")
        world.istiod.faults.certificate_ttl_s = None
        wait_for(lambda: agent.restart_epoch() >= 1, within_s=20, what="epoch 1")
        wait_for(lambda: len(agent.envoys()) == 1, within_s=30, what="the end of the old epoch")
        assert agent.is_ready()
        load.wait_more(100)
    assert load.failures == []


def test_with_policy_sds_a_rotation_is_a_push_alone(world: World) -> None:
    agent = world.sidecar
    assert agent.quit() == 0
    agent.environment["CERT_ROTATION_POLICY"] = "sds"
    world.istiod.faults.certificate_ttl_s = 10
    agent.start().wait_ready()
    (envoy,) = agent.envoys()
    serial = agent.serial()
    with Load(world.port, "/productpage") as load:
        wait_for(lambda: agent.serial() != serial, within_s=20, what="a new serial number")
        load.wait_more()
    assert load.failures == []
    assert [process.pid for process in agent.envoys()] == [envoy.pid]
    assert "--disable-hot-restart" in envoy.cmdline()
