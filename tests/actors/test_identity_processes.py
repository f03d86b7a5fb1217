"""The two identity actors as real processes with real workers, killed in the middle of their work."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot_agent.security.options import TOKEN
from tests.support import identity_tree
from tests.support.process_tree import kill_actor, quit_tree
from tests.support.sds_client import SdsClient
from tests.support.small_ca import SmallCa, provision, running
from tests.support.waiting import wait_for

SOCKET = "var/run/secrets/workload-spiffe-uds/socket"


class Tree:
    def __init__(self, directory: Path, ca: SmallCa) -> None:
        provision(directory, ca)
        token = directory / TOKEN
        token.parent.mkdir(parents=True)
        (directory / "istio-token").rename(token)
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, identity_tree.__file__, ca.address],
                stdout=log,
                stderr=log,
                cwd=directory,
                env=os.environ | {"LEVEL": "cache:debug"},
            )
        wait_for(lambda: self.process.poll() is not None or Path(SOCKET).exists(), what="the socket")

    def kill(self, role: str) -> None:
        kill_actor(self.process.pid, role)

    def quit(self) -> str:
        quit_tree(self.process)
        return self.log.read_text(errors="replace")


@pytest.fixture
def ca() -> Iterator[SmallCa]:
    with running(SmallCa()) as serving:
        yield serving


@pytest.fixture
def plant(ca: SmallCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Tree]]:
    """Starts the tree, once the test has told the CA how to behave."""
    monkeypatch.chdir(tmp_path)
    made: list[Tree] = []

    def start() -> Tree:
        made.append(Tree(tmp_path, ca))
        return made[-1]

    yield start
    for tree in made:
        log = tree.quit()
        assert not Path(SOCKET).exists()
        assert "Traceback" not in log
        assert "PRIVATE KEY" not in log
        assert "good-token" not in log


def version_and_key(client: SdsClient, name: str = "default") -> tuple[str, bytes]:
    stream = client.stream()
    stream.names(name)
    response = stream.response(20.0)
    return response.version_info, response.resources[0].value


def test_a_killed_cert_actor_goes_on_with_the_same_certificate_without_asking_the_ca(
    plant: Callable[[], Tree], ca: SmallCa
) -> None:
    tree = plant()
    with SdsClient(SOCKET) as client:
        watching = client.stream()
        watching.names("default")
        watching.response(20.0)
        before = version_and_key(client)
        tree.kill("cert")
        scheduled = "scheduled certificate for rotation in"
        wait_for(lambda: tree.log.read_text().count(scheduled) == 2, what="the restored certificate")
        assert version_and_key(client) == before
        assert watching.nothing_waits()
    assert len(ca.requests) == 1


def test_a_killed_sds_actor_answers_again_at_once_with_the_same_versions(
    plant: Callable[[], Tree], ca: SmallCa
) -> None:
    tree = plant()
    with SdsClient(SOCKET) as client:
        before = [version_and_key(client, name) for name in ("default", "ROOTCA")]
    tree.kill("sds")
    with SdsClient(SOCKET) as client:
        assert [version_and_key(client, name) for name in ("default", "ROOTCA")] == before
    assert len(ca.requests) == 1


def test_a_cert_actor_killed_while_the_ca_thinks_begins_anew_and_the_waiting_envoy_is_answered(
    plant: Callable[[], Tree], ca: SmallCa
) -> None:
    ca.hold = threading.Event()
    tree = plant()
    with SdsClient(SOCKET) as client:
        stream = client.stream()
        stream.names("default")
        wait_for(lambda: len(ca.requests) == 1, what="the first CSR")
        tree.kill("cert")
        wait_for(lambda: len(ca.requests) == 2, what="the second CSR")
        ca.hold.set()
        assert set(stream.secrets(20.0)) == {"default"}


def test_a_short_lived_certificate_is_rotated_by_push_though_cert_actor_is_killed_in_between(
    plant: Callable[[], Tree], ca: SmallCa
) -> None:
    ca.lifetime_s = 6.0  # due after three
    tree = plant()
    with SdsClient(SOCKET) as client:
        stream = client.stream()
        stream.names("default")
        first = stream.secrets(20.0)["default"]
        tree.kill("cert")
        later = [stream.secrets(20.0)["default"] for _ in range(2)]
    assert len({secret.tls_certificate.private_key.inline_bytes for secret in (first, *later)}) == 3
    assert len(ca.requests) == 3


def test_however_often_both_are_killed_through_rotations_the_ca_signs_once_for_each_and_nothing_stays_away(
    plant: Callable[[], Tree], ca: SmallCa
) -> None:
    ca.lifetime_s = 5.0  # due after two and a half
    tree = plant()
    seen: list[bytes] = []
    for role in ("sds", "cert", "sds", "cert", "cert", "sds"):
        with SdsClient(SOCKET) as client:
            stream = client.stream()
            stream.names("default")
            for _ in range(2 if role == "cert" else 1):
                secret = stream.secrets(20.0)["default"]
                seen.append(secret.tls_certificate.private_key.inline_bytes)
            tree.kill(role)
    with SdsClient(SOCKET) as client:
        version_and_key(client)
    rotations = len(dict.fromkeys(seen))
    # A signing that a kill of CertActor cuts off is begun anew; nothing else is asked twice.
    assert len(ca.requests) <= rotations + 3 + 1
    assert rotations >= 4


def test_two_hundred_secrets_of_two_envoys_come_out_of_one_csr(
    plant: Callable[[], Tree], ca: SmallCa
) -> None:
    plant()
    with SdsClient(SOCKET) as one, SdsClient(SOCKET) as other:
        streams = [envoy.stream() for envoy in (one, other) for _ in range(200)]
        for number, stream in enumerate(streams):
            stream.names(f"secret-{number % 200}")
        assert len({stream.response(30.0).version_info for stream in streams}) == 1
    assert len(ca.requests) == 1
