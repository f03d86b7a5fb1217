"""Envoy's life in a whole agent: killed, stopped, replaced, ended; and what clients notice of it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lab.istiod import Istiod
from tests.scenarios.conftest import World, agent_for
from tests.support.agent import RealAgent, command
from tests.support.load import Load
from tests.support.process_tree import has_ended
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy

BACK_S = 2.0


@pytest.fixture
def agent(workdir: Path, istiod: Istiod) -> Iterator[RealAgent]:
    with agent_for(istiod, workdir / "sidecar") as agent:
        yield agent.wait_ready()


def is_live(agent: RealAgent) -> bool:
    try:
        return agent.admin("/ready") == "LIVE\n"
    except OSError:
        return False


def restart(agent: RealAgent) -> None:
    subprocess.run([*command(), "restart", f"--status-port={agent.status_port}"], check=True, timeout=30)


def gone(processes: list[psutil.Process]) -> bool:
    return all(map(has_ended, processes))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_whatever_kills_envoy_it_serves_again_within_two_seconds_and_the_agent_goes_on(
    agent: RealAgent, number: int
) -> None:
    (old,) = agent.envoys()
    os.kill(old.pid, number)
    wait_for(lambda: gone([old]), within_s=BACK_S, what="the end of Envoy")
    wait_for(lambda: is_live(agent), within_s=BACK_S, what="the next Envoy being LIVE")
    wait_for(agent.is_ready, within_s=5)
    assert [each.pid for each in agent.envoys()] != [old.pid]
    assert agent.quit() == 0


def kill_again_and_again(agent: RealAgent, times: int) -> None:
    for _ in range(times):
        (envoy,) = agent.envoys()
        envoy.kill()
        wait_for(lambda one=envoy: gone([one]), within_s=BACK_S)  # type: ignore[misc]
        wait_for(lambda: is_live(agent), within_s=BACK_S, what="the next Envoy being LIVE")


def test_kills_in_a_row_leave_one_envoy_and_no_file_and_a_crash_loop_is_said(agent: RealAgent) -> None:
    kill_again_and_again(agent, 10)
    assert "crash loop" not in agent.log()
    kill_again_and_again(agent, 1)
    agent.wait_log("Envoy is in a crash loop: 11 failures in 5m0s; .* it is tried again")
    (envoy,) = agent.envoys()
    words = envoy.cmdline()
    folder = agent.directory / "etc/istio/proxy"
    files = [each.name for each in folder.glob("envoy-rev*.json") if not each.is_symlink()]
    assert files == ["envoy-rev11.json"]
    assert (folder / "hr-base-ids").read_text().split() == [words[words.index("--base-id") + 1]]
    assert agent.quit() == 0


def test_a_crash_loop_ends_the_agent_with_the_status_that_was_asked_for(
    workdir: Path, istiod: Istiod
) -> None:
    variables = {"ENVOY_CRASH_LOOP_EXIT_CODE": "77"}
    with agent_for(istiod, workdir / "sidecar", environment=variables) as agent:
        kill_again_and_again(agent.wait_ready(), 10)
        agent.envoys()[0].kill()
        assert agent.process is not None
        assert agent.process.wait(10) == 77
        agent.wait_log("Envoy is in a crash loop: .* the agent ends with 77")


def test_a_stopped_envoy_serves_again_within_two_seconds(agent: RealAgent) -> None:
    (envoy,) = agent.envoys()
    envoy.send_signal(signal.SIGSTOP)
    agent.wait_log("was stopped and serves nothing", within_s=BACK_S)
    wait_for(lambda: is_live(agent), within_s=BACK_S, what="the same Envoy going on")
    assert [each.pid for each in agent.envoys()] == [envoy.pid]


def test_hot_restarts_by_command_signal_and_port_drop_no_request(world: World) -> None:
    agent = world.sidecar
    with Load(world.port, "/productpage", keep_alive=2, new_connections=2) as load:
        restart(agent)
        wait_for(lambda: agent.restart_epoch() == 1, within_s=20)
        wait_for(lambda: len(agent.envoys()) == 1, within_s=20, what="the end of the old epoch")
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: agent.restart_epoch() == 2, within_s=20)
        load.wait_more(50)
    assert load.failures == []


def test_envoy_has_none_of_the_agent_s_files_and_none_of_its_own_variables(
    workdir: Path, istiod: Istiod
) -> None:
    variables = {"XDS_HEADER_X": "secret", "NOTIFY_SOCKET": "/nowhere", "HOST_IP": "10.0.0.1"}
    with agent_for(istiod, workdir / "sidecar", environment=variables) as agent:
        (envoy,) = agent.wait_ready().envoys()
        found = envoy.environ()
        assert "XDS_HEADER_X" not in found
        assert "NOTIFY_SOCKET" not in found
        assert found["HOST_IP"] == "10.0.0.1"
        opened = open_files(envoy.pid)
        assert not [each for each in opened if "memfd" in each or "pidfd" in each or "signalfd" in each]
        assert {each for each in opened if each.startswith(str(workdir))} == {
            str(agent.directory / "agent.log")
        }
        bootstrap = agent.directory / "etc/istio/proxy/envoy-rev0.json"
        assert bootstrap.stat().st_mode & 0o777 == 0o600
        assert bootstrap.stat().st_uid == envoy.uids().effective


def open_files(pid: int) -> list[str]:
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(each.readlink()))
    return found


def long_drain(istiod: Istiod, directory: Path) -> RealAgent:
    return agent_for(istiod, directory, proxy_config={"terminationDrainDuration": "60s"})


def test_a_second_sigterm_shortens_the_drain_and_one_that_comes_at_once_does_not(
    workdir: Path, istiod: Istiod
) -> None:
    with long_drain(istiod, workdir / "sidecar") as agent:
        family = [*agent.wait_ready().envoys(), *agent.family()]
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        agent.process.send_signal(signal.SIGINT)
        agent.wait_log("Graceful termination period is 1m0s, starting")
        began_s = time.monotonic()
        wait_for(lambda: time.monotonic() - began_s > 1.2 or agent.process.poll() is not None)  # type: ignore[union-attr]
        assert agent.process.poll() is None
        assert agent.quit() == 0
        assert gone(family)


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_with_two_epochs_alive_both_end_with_the_agent(workdir: Path, istiod: Istiod, kill: bool) -> None:
    with agent_for(istiod, workdir / "sidecar") as agent:
        agent.wait_ready()
        restart(agent)
        wait_for(lambda: agent.restart_epoch() == 1 and is_live(agent), within_s=20)
        both = agent.envoys()
        assert len(both) == 2
        if kill:
            agent.kill()
        else:
            assert agent.quit() == 0
            left = {each.name for each in (agent.directory / "etc/istio/proxy").iterdir()}
            assert left <= {"grpc-bootstrap.json"}  # which the reference leaves, too
        wait_for(lambda: gone(both), within_s=5, what="the end of both Envoys")


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_no_envoy_outlives_a_killed_supervisor_while_an_epoch_initializes(
    workdir: Path, istiod: Istiod, stopped: bool
) -> None:
    with agent_for(istiod, workdir / "sidecar") as agent:
        agent.wait_ready()
        restart(agent)
        wait_for(lambda: len(agent.envoys()) == 2, within_s=20, what="the new epoch")
        everybody = [*agent.envoys(), *agent.family()]
        if stopped:  # no signal but SIGKILL reaches it then, and what it waits for never comes
            for each in agent.envoys():
                each.suspend()
        agent.kill()
        wait_for(lambda: gone(everybody), within_s=2, what="the end of everybody")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
def test_policy_sds_leaves_no_envoy_of_a_killed_supervisor_either(
    workdir: Path, istiod: Istiod, number: signal.Signals
) -> None:
    with agent_for(istiod, workdir / "sidecar", environment={"CERT_ROTATION_POLICY": "sds"}) as agent:
        everybody = [*agent.wait_ready().envoys(), *agent.family()]
        assert agent.process is not None
        agent.process.send_signal(number)
        agent.process.wait(5)
        wait_for(lambda: gone(everybody), within_s=2, what="the end of everybody")


def test_the_drain_goes_on_when_any_actor_dies_meanwhile(workdir: Path, istiod: Istiod) -> None:
    config = {"terminationDrainDuration": "3s"}
    with agent_for(istiod, workdir / "sidecar", proxy_config=config) as agent:
        envoys = agent.wait_ready().envoys()
        assert agent.process is not None
        began_s = time.monotonic()
        agent.process.send_signal(signal.SIGTERM)
        agent.wait_log("Graceful termination period is 3s, starting")
        for role in ("envoy", "health", "upstream-xds", "downstream-xds", "sds", "cert"):
            os.kill(agent.actor_pid(role), signal.SIGKILL)
        assert agent.process.wait(15) == 0
        assert 2.9 < time.monotonic() - began_s < 10
        assert gone(envoys)


@pytest.fixture
def cgroup() -> Iterator[tuple[Path, str, str]]:
    """Make a memory cgroup; yield its folder and the names of its limit and of its count of OOM kills."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    inner = next((path for _, controllers, path in own if "memory" in controllers.split(",")), "/")
    parent = next((at for at in (v1 / inner.lstrip("/"), v1, v2) if at.is_dir()), v2)
    names = (
        ("memory.max", "memory.events") if parent == v2 else ("memory.limit_in_bytes", "memory.oom_control")
    )
    folder = parent / f"pilot-agent-life-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / names[0]).write_text(str(1 << 30))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield folder, *names
    wait_for(lambda: not (folder / "cgroup.procs").read_text().split(), within_s=10, what="an empty cgroup")
    folder.rmdir()


def within(folder: Path) -> tuple[str, ...]:
    """Return what to put before a command that is to run in this cgroup."""
    return ("sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "sh")


def oom_kills(file: Path) -> int:
    return int(dict(line.split() for line in file.read_text().splitlines())["oom_kill"])


def with_ballast(directory: Path, endpoints: int) -> dict[str, str]:
    """Return variables that have Envoy hold so many endpoints, some 2 kB each."""
    directory.mkdir(parents=True, exist_ok=True)
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": f"10.{a}.{b}.{c}", "port_value": 80}}}}
        for a, b, c in itertools.islice(itertools.product(range(9), range(256), range(256)), endpoints)
    ]
    prefix = "type.googleapis.com/envoy.config.endpoint.v3."
    held = {"@type": f"{prefix}ClusterLoadAssignment", "cluster_name": "ballast"}
    held["endpoints"] = [{"lb_endpoints": hosts}]  # type: ignore[assignment]  # JSON
    (directory / "ballast.json").write_text(json.dumps({"resources": [held]}))
    source = {"path_config_source": {"path": str(directory / "ballast.json")}, "resource_api_version": "V3"}
    cluster = {"name": "ballast", "type": "EDS", "eds_cluster_config": {"eds_config": source}}
    (directory / "override.json").write_text(json.dumps({"static_resources": {"clusters": [cluster]}}))
    return {"ISTIO_BOOTSTRAP_OVERRIDE": "override.json"}


def anonymous_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


@pytest.mark.parametrize("envoy_has", ["little", "60 % of the limit"])
def test_without_memory_for_two_twenty_restarts_are_refused_and_nothing_is_killed(
    workdir: Path, istiod: Istiod, cgroup: tuple[Path, str, str], envoy_has: str
) -> None:
    folder, limit, kills = cgroup
    variables = {} if envoy_has == "little" else with_ballast(workdir / "sidecar", 100_000)
    with agent_for(istiod, workdir / "sidecar", prefix=within(folder), environment=variables) as agent:
        (envoy,) = agent.wait_ready(60).envoys()
        name = "memory.current" if limit == "memory.max" else "memory.usage_in_bytes"
        usage = int((folder / name).read_text())
        most = usage + (24 << 20) if envoy_has == "little" else int(anonymous_bytes(envoy) / 0.6)
        (folder / limit).write_text(str(most))
        for number in range(1, 21):
            restart(agent)
            wait_for(lambda many=number: agent.log().count("not enough memory for a second Envoy") >= many)  # type: ignore[misc]
        assert [each.pid for each in agent.envoys()] == [envoy.pid]
        assert is_live(agent)
        assert oom_kills(folder / kills) == 0
        (folder / limit).write_text(str(1 << 30))
        restart(agent)
        wait_for(lambda: agent.restart_epoch() == 1, within_s=20)
        assert agent.quit() == 0


def test_an_envoy_that_the_kernel_kills_for_want_of_memory_serves_again_within_two_seconds(
    workdir: Path, istiod: Istiod, cgroup: tuple[Path, str, str]
) -> None:
    folder, limit, kills = cgroup
    with agent_for(istiod, workdir / "sidecar", prefix=within(folder)) as agent:
        (envoy,) = agent.wait_ready().envoys()
        Path(f"/proc/{envoy.pid}/oom_score_adj").write_text("1000")  # the kernel's first choice
        name = "memory.current" if limit == "memory.max" else "memory.usage_in_bytes"
        (folder / limit).write_text(str(int((folder / name).read_text()) + (32 << 20)))
        hog = (
            "import os, sys\nheld = []\n"
            f"while os.path.exists('/proc/{envoy.pid}/exe'): held.append(bytearray(b'x' * (1 << 19)))"
        )
        program = subprocess.Popen([*within(folder), sys.executable, "-I", "-S", "-c", hog])
        wait_for(lambda: gone([envoy]), within_s=20, what="the kernel's choice")
        began_s = time.monotonic()
        (folder / limit).write_text(str(1 << 30))  # one choice is enough: the next might be the program
        wait_for(lambda: is_live(agent), what="the next Envoy")
        assert time.monotonic() - began_s < BACK_S
        assert program.wait(10) == 0
        assert oom_kills(folder / kills) == 1
        assert len(agent.envoys()) == 1
        agent.wait_log("Envoy may have been out of memory killed")
        assert agent.quit() == 0
