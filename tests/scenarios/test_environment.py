"""What the machine around the agent refuses: places, ports, privileges, its own output."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import psutil
import pytest

from lab.istiod import Istiod
from tests.scenarios.conftest import agent_for
from tests.support.agent import REPOSITORY, RealAgent, calm, with_config
from tests.support.sds_client import SdsClient
from tests.support.status_client import get as ask
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy

SEALED = REPOSITORY / "tests" / "support" / "sealed.py"
PROXY, DATA, OUTPUT = "etc/istio/proxy", "var/lib/istio/data", "etc/istio/output"
SOCKETS = ("var/run/secrets/workload-spiffe-uds", "var/run/secrets/credential-uds")
PLACES = (PROXY, DATA, OUTPUT, *SOCKETS)


# --- places --------------------------------------------------------------------------------------


@cache
def why_not_sealed() -> str:
    """Return why no mount namespace can be made here; empty if it can."""
    if os.geteuid() != 0:
        return "wants root, for a mount namespace and for being another user"
    tried = subprocess.run(
        [sys.executable, str(SEALED), "--", "true"], cwd="/", capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"no mount namespace: {tried.stderr.strip()[-200:]}"


def sealed(istiod: Istiod, directory: Path, *, without: str = "", memory: str = "rw") -> RealAgent:
    """Return an agent that may write nowhere but where it should; `without`: not even there."""
    if reason := why_not_sealed():
        pytest.skip(reason)
    writable = [place for place in PLACES if place != without]
    prefix = (sys.executable, str(SEALED), "--memory", memory)
    agent = agent_for(
        istiod,
        directory,
        environment={"OUTPUT_CERTS": OUTPUT},
        prefix=(*prefix, *(word for place in writable for word in ("--write", place)), "--"),
    )
    for place in PLACES:
        (directory / place).mkdir(parents=True, exist_ok=True)
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, 1337, 1337)
    return agent


def capabilities(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split()[1] for line in lines if line.startswith("Cap")}


@pytest.mark.root
def test_a_read_only_root_no_tmp_and_uid_1337_without_privilege_are_enough(
    workdir: Path, istiod: Istiod
) -> None:
    with calm(sealed(istiod, workdir)) as agent:
        agent.wait_ready()
        assert agent.process is not None
        everybody = [psutil.Process(agent.process.pid), *agent.family()]
        assert len(everybody) >= 8
        assert {process.uids().real for process in everybody} == {1337}
        assert {word for each in everybody for word in capabilities(each.pid)} == {"0" * 16}

        agent.process.send_signal(signal.SIGHUP)
        agent.wait_log("Envoy epoch 1 is live")
        wait_for(lambda: agent.restart_epoch() == 1, what="the next epoch at the admin port")
        agent.wait_ready()

        assert agent.quit() == 0
        assert "Permission denied" not in agent.log()
        assert "Read-only file system" not in agent.log()
        assert not [path for path in (workdir / PROXY).iterdir() if "rev" in path.name]


@pytest.mark.root
def test_shared_memory_that_is_read_only_turns_hot_restart_off_with_one_line(
    workdir: Path, istiod: Istiod
) -> None:
    with calm(sealed(istiod, workdir, memory="ro")) as agent:
        agent.wait_ready()
        said = [line for line in agent.log().splitlines() if "/dev/shm" in line]
        assert len(said) == 1
        assert "\twarn\thot restart is not possible" in said[0]
        assert "/dev/shm is not writable: Read-only file system" in said[0]
        assert "--disable-hot-restart" in agent.wait_log("Envoy command: .*")[0]
        assert agent.quit() == 0


@pytest.mark.root
def test_an_unwritable_sds_directory_turns_sds_off_with_one_line_and_the_rest_serves(
    workdir: Path, istiod: Istiod
) -> None:
    with calm(sealed(istiod, workdir, without=SOCKETS[0])) as agent:
        agent.wait_log(r"\twarn\tsds\tSDS grpc server could not be started: .*workload-spiffe-uds", 60)
        assert agent.log().count("SDS grpc server could not be started") == 1
        wait_for(lambda: agent.admin("/server_info"), what="Envoy's admin port")
        assert ask(agent.status_port, "/healthz/ready").status == 503
        assert ask(agent.status_port, "/stats/prometheus").status == 200
        istiod.observed.wait_until(lambda seen: seen.open_streams)
        assert agent.quit() == 0


@pytest.mark.root
@pytest.mark.parametrize("place", [DATA, OUTPUT, SOCKETS[1]])
def test_other_places_that_are_unwritable_keep_nothing_from_working(
    workdir: Path, istiod: Istiod, place: str
) -> None:
    with calm(sealed(istiod, workdir, without=place)) as agent:
        agent.wait_ready()
        assert agent.quit() == 0


@pytest.mark.root
def test_an_unwritable_configuration_directory_ends_the_agent_with_one_clear_error(
    workdir: Path, istiod: Istiod
) -> None:
    with calm(sealed(istiod, workdir, without=PROXY)) as agent:
        assert agent.process is not None
        assert agent.process.wait(20) == 255
        assert "Error: failed to start xds proxy: " in agent.log()
        assert "etc/istio/proxy is not writable" in agent.log()


def a_file_for_the_directory(agent: RealAgent) -> None:
    (agent.directory / "etc/istio").mkdir(parents=True)
    (agent.directory / PROXY).write_text("no directory")


def a_directory_for_the_socket(agent: RealAgent) -> None:
    (agent.directory / PROXY / "XDS").mkdir(parents=True)


def a_path_too_long_for_a_socket(agent: RealAgent) -> None:
    with_config(agent, configPath="./" + "p" * 100)


@pytest.mark.parametrize(
    ("hinder", "words"),
    [
        (a_file_for_the_directory, "no such directory: etc/istio/proxy"),
        (a_directory_for_the_socket, "Is a directory"),
        (a_path_too_long_for_a_socket, "is too long: "),
    ],
)
def test_an_xds_socket_that_cannot_be_made_ends_the_agent_with_one_clear_error(
    hinder: Callable[[RealAgent], None], words: str, workdir: Path, istiod: Istiod
) -> None:
    agent = agent_for(istiod, workdir)
    hinder(agent)
    with calm(agent):
        assert agent.process is not None
        assert agent.process.wait(20) == 255
        error = agent.wait_log(r"\terror\t(failed to start xds proxy: .*)$")[1]
        assert words in error
        assert agent.log().splitlines().count("Error: " + error) == 1


# --- ports ---------------------------------------------------------------------------------------


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        somebody.bind(("0.0.0.0", port))
        somebody.listen()
        yield


def test_a_taken_status_port_is_one_error_line_and_the_rest_works(workdir: Path, istiod: Istiod) -> None:
    agent = agent_for(istiod, workdir)
    with taken(agent.status_port), calm(agent):
        agent.wait_log(rf"\terror\tError listening on status port: listen tcp :{agent.status_port}: bind: ")
        wait_for(
            lambda: agent.stats("workers_started")["listener_manager.workers_started"] == 1,
            what="Envoy configured by istiod",
        )
        assert "spiffe://cluster.local/ns/default/sa/bookinfo-apps" in agent.admin("/certs")
        assert agent.log().count("status port: listen") == 1
        assert agent.quit() == 0


def test_envoy_comes_up_when_its_admin_port_becomes_free(workdir: Path, istiod: Istiod) -> None:
    agent = agent_for(istiod, workdir)
    with ExitStack() as stack:
        port = stack.enter_context(ExitStack())
        port.enter_context(taken(agent.admin_port))
        stack.enter_context(calm(agent))
        agent.wait_log(r"\terror\tEnvoy is started again in ")
        port.close()
        agent.wait_ready()
        assert istiod.observed.csrs_signed() == 1
        assert agent.quit() == 0


# --- files and descriptors -----------------------------------------------------------------------


def test_unreadable_pod_files_are_a_warning_each(workdir: Path, istiod: Istiod) -> None:
    pod = workdir / "etc/istio/pod"
    pod.mkdir(parents=True)
    (pod / "annotations").write_bytes(b"\xff\x00garbage\nkey=unquoted\n")
    (pod / "labels").write_bytes(b'app="\\q"\n')
    with calm(agent_for(istiod, workdir)) as agent:
        agent.wait_ready()
        for what in ("annotations", "labels"):
            agent.wait_log(rf"\twarn\tfailed to read pod {what}: ")


def test_the_agent_works_with_its_output_closed(workdir: Path, istiod: Istiod) -> None:
    prefix = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    with agent_for(istiod, workdir, prefix=prefix) as agent:
        agent.wait_ready()
        assert agent.quit() == 0
    assert agent.log() == ""


def test_the_agent_works_when_nobody_reads_its_output_any_more(workdir: Path, istiod: Istiod) -> None:
    prefix = ("bash", "-c", 'exec "$@" > >(head -n 1) 2>&1', "bash")
    with agent_for(istiod, workdir, prefix=prefix) as agent:
        agent.wait_ready()
        with SdsClient(str(workdir / SOCKETS[0] / "socket")) as client:
            stream = client.stream()
            stream.names("default")
            assert set(stream.secrets()) == {"default"}
        assert agent.quit() == 0
    assert len(agent.log().splitlines()) == 1


def test_sockets_of_a_dead_agent_and_a_foreign_file_are_replaced(workdir: Path, istiod: Istiod) -> None:
    paths = [workdir / PROXY / "XDS", workdir / SOCKETS[0] / "socket"]
    for path in paths:
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    (workdir / PROXY / "envoy-rev7.json").write_text(json.dumps({"left": "behind"}))
    with calm(agent_for(istiod, workdir)) as agent:
        agent.wait_ready()
        assert all(stat.S_ISSOCK(path.stat().st_mode) for path in paths)
        assert not (workdir / PROXY / "envoy-rev7.json").exists()
