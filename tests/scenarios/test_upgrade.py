"""Live upgrade: another version takes the agent's place while Envoy and its clients go on."""

import json
import os
import signal
import subprocess
import threading
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import psutil
import pytest

from lab.mesh import Mesh
from tests.scenarios.conftest import World
from tests.support.agent import ROLES, RealAgent
from tests.support.load import Load
from tests.support.process_tree import wait_ended
from tests.support.sds_client import SdsClient
from tests.support.versions import make_version
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.envoy]
COUNT = int(os.environ.get("PILOT_AGENT_UPGRADES", "2"))
"""`PILOT_AGENT_UPGRADES=20 tox run -e scenarios -- -k upgrades` for more of them."""


def upgrade(agent: RealAgent, program: Path) -> subprocess.CompletedProcess[str]:
    """Have a version ask to be the agent."""
    return subprocess.run(
        [str(program), "upgrade", "--timeoutSeconds=40"],
        cwd=agent.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def with_another_address(mesh: Mesh) -> Mesh:
    """Return a mesh with a change that is in the clusters."""
    first, *rest = mesh.services
    account = replace(first, service_account="somebody-else")
    return replace(mesh, services=(account, *rest))


def pids(agent: RealAgent) -> dict[str, int]:
    return {role: agent.actor_pid(role) for role in ROLES}


def is_served_with_secrets(agent: RealAgent) -> bool:
    """Ask for the workload's certificate where Envoy does, and look for another place to ask at."""
    identity = agent.directory / "var/run/secrets/workload-spiffe-uds/socket"
    with SdsClient(str(identity)) as client:
        stream = client.stream()
        stream.names("default")
        return "default" in stream.secrets() and "credential-uds" not in agent.log()


def opened_streams(agent: RealAgent) -> dict[str, dict[str, int]]:
    """Return, of each socket of the agent, how many connections and streams Envoy has opened, and has now."""
    found = {}
    for cluster in json.loads(agent.admin("/clusters?format=json"))["cluster_statuses"]:
        if cluster["name"] in {"xds-grpc", "sds-grpc"}:
            (host,) = cluster["host_statuses"]
            counted = {one["name"]: int(one.get("value", 0)) for one in host["stats"]}
            names = ("cx_total", "cx_active", "rq_total", "rq_active", "rq_error")
            found[cluster["name"]] = {name: counted[name] for name in names}
    return found


def version_of(agent: RealAgent) -> str:
    return agent.log().rpartition("\tVersion ")[2].split("-")[0]


def test_upgrades_cost_no_request_and_leave_envoy_alone(world: World, workdir: Path) -> None:
    agent = world.sidecar
    two, three = (make_version(workdir / name, name) for name in ("2.0", "3.0"))
    (envoy,) = agent.envoys()
    assert agent.process is not None
    with Load(world.port, "/productpage", keep_alive=2, new_connections=2) as load:
        load.wait_more(100)
        opened = opened_streams(agent)
        assert opened["sds-grpc"]["rq_active"] == 2
        assert opened["xds-grpc"]["rq_active"] == 1
        for program in islice(cycle((two, three)), COUNT):
            before = pids(agent)
            done = upgrade(agent, program)
            assert (done.returncode, done.stdout) == (0, f"process {agent.process.pid} is now {program}\n"), (
                done.stderr
            )
            assert version_of(agent) == program.parent.name
            after = pids(agent)
            assert not set(before.values()) & set(after.values())
            assert is_served_with_secrets(agent)
            load.wait_more(100)
    assert load.failures == []
    assert opened_streams(agent) == opened, "Envoy had to connect again"
    assert agent.envoys() == [envoy]
    assert envoy.is_running()
    assert agent.is_ready()
    updates = "cluster_manager.cds.update_success"
    known = agent.stats(updates)[updates]
    world.istiod.push(with_another_address(world.mesh))
    wait_for(lambda: agent.stats(updates)[updates] > known, what="Envoy taking a push")
    assert "Traceback" not in agent.log()
    assert agent.quit() == 0


def test_a_version_that_does_not_start_is_refused_before_anything_changes(
    world: World, workdir: Path
) -> None:
    agent = world.sidecar
    broken = make_version(workdir / "broken", "9.9")
    (broken.parent / "actors" / "sds.py").write_text("raise RuntimeError('not today')\n")
    before = pids(agent)
    done = upgrade(agent, broken)
    assert done.returncode == 255
    assert "refused: the new version does not start so" in done.stderr
    assert "not today" in done.stderr
    assert pids(agent) == before
    assert is_served_with_secrets(agent)  # a probe looks at the same places, and touches none
    own = RealAgentProgram(agent)
    assert "refused" in upgrade(agent, own.path).stderr


class RealAgentProgram:
    """The program that an agent was started with."""

    def __init__(self, agent: RealAgent) -> None:
        assert agent.process is not None
        words = agent.process.args
        assert isinstance(words, list)
        self.path = next(Path(word) for word in words if word.endswith("pilot-agent"))


def test_a_version_whose_actor_does_not_come_up_is_left_again(world: World, workdir: Path) -> None:
    agent = world.sidecar
    half = make_version(workdir / "half", "9.9")
    actor = half.parent / "actors" / "upstream_xds.py"
    source = actor.read_text()
    assert "    def on_start(" in source or "def __init__(" in source
    actor.write_text(
        source.replace(
            "        super().__init__(",
            "        raise RuntimeError('cannot live')\n        super().__init__(",
            1,
        )
    )
    (envoy,) = agent.envoys()
    with Load(world.port, "/productpage") as load:
        load.wait_more(20)
        done = upgrade(agent, half)
        assert done.returncode == 255
        assert "went back: actor upstream-xds did not become Ready" in done.stderr
        load.wait_more(50)
    assert load.failures == []
    assert agent.envoys() == [envoy]
    assert agent.process is not None
    assert psutil.Process(agent.process.pid).is_running()
    assert agent.is_ready()


def test_an_end_that_is_asked_for_in_the_middle_is_an_end(world: World, workdir: Path) -> None:
    agent = world.sidecar
    two = make_version(workdir / "2.0", "2.0")
    asking = threading.Thread(target=lambda: upgrade(agent, two))
    asking.start()
    agent.wait_log("upgrade: becoming")
    assert agent.process is not None
    family = agent.family()
    agent.process.send_signal(signal.SIGTERM)  # waits in the kernel while nobody listens
    assert agent.process.wait(20) == 0
    assert wait_ended(family, within_s=5) == []
    asking.join(60)
