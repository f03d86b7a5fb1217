"""The status port of a whole agent: its actor killed, and a report of it taken with secrets planted."""

import io
import os
import signal
import tarfile
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from lab.istiod import Istiod
from tests.scenarios.conftest import agent_for
from tests.support.agent import RealAgent, with_config
from tests.support.cli import run_agent
from tests.support.http_peer import HttpPeer, reply
from tests.support.status_client import get
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy
KILLS = 4
WORD = "planted-hunter2"


class Prober:
    """Asks for readiness through Envoy and directly, as fast as it is answered, and keeps all answers."""

    def __init__(self, *ports: int) -> None:
        self.answers: list[int] = []
        self.slowest_s = 0.0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port,), daemon=True) for port in ports]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def _ask(self, port: int) -> None:
        while not self._over.is_set():
            began_s = time.monotonic()
            try:
                self.answers.append(get(port, "/healthz/ready").status)
            except ConnectionError:
                continue  # the one that was being answered at the kill: a prober asks again
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)


def test_a_killed_health_actor_is_back_within_a_second_and_nobody_is_told_anything_wrong(
    workdir: Path, istiod: Istiod
) -> None:
    agent = agent_for(istiod, workdir)
    with HttpPeer(lambda _: reply("200 OK")) as app:
        probe = {"httpGet": {"port": app.port, "host": "127.0.0.1"}, "periodSeconds": 1}
        with_config(agent, readinessProbe=probe)
        watch(agent, istiod)


def watch(agent: RealAgent, istiod: Istiod) -> None:
    with agent:
        agent.wait_ready()
        istiod.observed.wait_until(lambda seen: bool(seen.health) and seen.health[-1].healthy)
        known = len(istiod.observed.health)
        with Prober(agent.status_port) as direct, Prober(agent.ready_port) as through_envoy:
            for _ in range(KILLS):
                before = len(direct.answers)
                os.kill(agent.actor_pid("health"), signal.SIGKILL)
                wait_for(lambda: len(direct.answers) > before + 50, what="answers of the next one")  # noqa: B023
        assert set(direct.answers) == {200}
        in_flight = len(through_envoy.answers) - through_envoy.answers.count(200)
        assert in_flight <= KILLS, (
            "Envoy says 503 for the request that was being answered at the kill, no more"
        )
        assert "NOT ready" not in agent.log().partition("Envoy proxy is ready")[2]
        assert max(direct.slowest_s, through_envoy.slowest_s) < 1.0
        assert all(one.healthy for one in list(istiod.observed.health)[known:])


def test_a_bug_report_of_a_whole_agent_has_everything_but_secrets(workdir: Path, istiod: Istiod) -> None:
    environment = {
        "CA_HEADER_AUTHORIZATION": f"Bearer {WORD}",
        "XDS_HEADER_X_API_KEY": WORD,
        "ISTIO_META_API_TOKEN": WORD,
    }
    with agent_for(istiod, workdir, environment=environment) as agent:
        agent.wait_ready()
        token = (workdir / "var/run/secrets/tokens/istio-token").read_text()
        file = workdir / "report.tar.gz"
        done = run_agent(
            "bug-report",
            f"--status-port={agent.status_port}",
            f"--admin-port={agent.admin_port}",
            f"--output={file}",
        )
        assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as archive:
        names = {entry.name.partition("/")[2] for entry in archive.getmembers()}
        files = [archive.extractfile(entry) for entry in archive.getmembers()]
        everything = b"".join(file.read() for file in files if file is not None)
    assert {"status.json", "agent.log", "metrics.txt", "envoy/config-dump.json", "versions.json"} <= names
    text = everything.decode()
    assert "Readiness succeeded in" in text
    for secret in (WORD, token, token.split(".")[1], "PRIVATE KEY"):
        assert secret not in text
