"""Readiness follows what istiod sent: a real Envoy that waits for routes, or has lost all its listeners."""

from pathlib import Path

import pytest

from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.resources import world_of
from lab.snapshot import LDS, RDS, NodeInfo, Snapshot
from tests.scenarios.conftest import agent_for
from tests.scenarios.test_readiness import CDS_ACCEPTED, becomes, status
from tests.support.status_client import get
from tests.support.waiting import wait_for

LDS_ACCEPTED = "listener_manager.lds.update_success"
pytestmark = pytest.mark.envoy


def without(mesh: Mesh, node: NodeInfo, *types: str) -> Snapshot:
    whole = world_of(mesh)(node)
    return Snapshot(by_type={kind: {} if kind in types else named for kind, named in whole.by_type.items()})


def test_an_envoy_that_waits_for_its_routes_is_not_ready(workdir: Path, mesh: Mesh, istiod: Istiod) -> None:
    istiod.push(lambda node: without(mesh, node, RDS))
    with agent_for(istiod, workdir) as agent:
        for name in (CDS_ACCEPTED, LDS_ACCEPTED):
            wait_for(lambda: agent.stats(name).get(name), what=name)  # noqa: B023
        istiod.observed.wait_until(lambda seen: seen.acks(LDS) >= 1)
        waited_for = get(agent.admin_port, "/init_dump").body.decode()
        assert "RdsRouteConfigSubscription" in waited_for, waited_for
        assert [status(agent) for _ in range(50)] == [503] * 50
        istiod.push(mesh)
        becomes(agent, 200, within_s=10)


@pytest.mark.parametrize(("role", "expected"), [("sidecar", 503), ("router", 200)])
def test_an_accepted_update_without_any_listener_ends_a_sidecars_readiness_until_there_are_some(
    workdir: Path, mesh: Mesh, istiod: Istiod, role: str, expected: int
) -> None:
    with agent_for(istiod, workdir, role) as agent:
        agent.wait_ready()
        assert status(agent) == 200
        before = agent.stats(LDS_ACCEPTED)[LDS_ACCEPTED]
        istiod.push(lambda node: without(mesh, node, LDS, RDS))
        wait_for(lambda: agent.stats(LDS_ACCEPTED)[LDS_ACCEPTED] > before, what="the accepted update")
        wait_for(
            lambda: agent.stats("listener_manager.total_listeners_active").popitem()[1] == 2,
            what="the bootstrap's listeners alone",
        )
        becomes(agent, expected, within_s=3)
        if expected == 503:
            agent.wait_log("NOT ready: Envoy's listeners are gone: the configuration that it accepted last")
        istiod.push(mesh)
        becomes(agent, 200, within_s=5)
