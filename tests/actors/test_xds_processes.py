"""The two halves of the xDS path as real processes, killed in the middle of their work."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support import xds_tree
from tests.support.fake_istiod import EnvoyClient, FakeIstiod
from tests.support.process_tree import kill_actor, quit_tree
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, EDS, ack, asked, request, response


class Tree:
    def __init__(self, directory: Path, istiod: FakeIstiod) -> None:
        self.socket = directory / "XDS"
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, xds_tree.__file__, str(directory), istiod.address], stdout=log, stderr=log
            )
        wait_for(self.socket.exists, what="the socket")
        self.clients: list[EnvoyClient] = []

    def envoy(self, variant: str = "delta") -> EnvoyClient:
        self.clients.append(EnvoyClient(f"unix:{self.socket}", variant))
        return self.clients[-1]

    def kill(self, role: str) -> None:
        kill_actor(self.process.pid, role)

    def quit(self) -> None:
        for client in self.clients:
            client.close()
        quit_tree(self.process)


@pytest.fixture
def istiod() -> Iterator[FakeIstiod]:
    server = FakeIstiod().start()
    yield server
    server.kill()


@pytest.fixture
def tree(istiod: FakeIstiod, tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path, istiod)
    yield made
    made.quit()
    assert not made.socket.exists()
    assert "Traceback" not in made.log.read_text(errors="replace")


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_envoys_stream_survives_a_killed_upstream_process_and_is_whole_again(
    tree: Tree, istiod: FakeIstiod, variant: str
) -> None:
    envoy = tree.envoy(variant)
    envoy.send(request(variant, CDS, node="n"))
    stream = istiod.next_stream()
    stream.receive()
    stream.send(response(variant, CDS, "old", cluster=b"1"))
    late = envoy.receive()
    tree.kill("upstream-xds")
    stream.wait_for_end()
    envoy.send(ack(variant, late))
    envoy.send(request(variant, EDS, "a"))

    again = istiod.next_stream()
    first, second = again.receive(), again.receive()
    assert (first.type_url, first.node.id, first.response_nonce) == (CDS, "n", "")
    assert (second.type_url, asked(second)) == (EDS, ("a",))
    big = response(variant, CDS, "new", cluster=b"x" * (10 << 20)).SerializeToString()
    again.send(big)
    assert envoy.receive_bytes() == big


def test_a_killed_downstream_process_takes_envoys_stream_along_and_serves_the_next(
    tree: Tree, istiod: FakeIstiod
) -> None:
    envoy = tree.envoy()
    envoy.send(request("delta", CDS, node="n"))
    stream = istiod.next_stream()
    stream.receive()
    tree.kill("downstream-xds")
    assert envoy.wait_for_end()[0] is grpc.StatusCode.UNAVAILABLE
    stream.wait_for_end()

    after = tree.envoy()
    after.send(request("delta", CDS, node="n"))
    again = istiod.next_stream()
    assert again.receive().type_url == CDS
    again.send(response("delta", CDS, "n"))
    assert after.receive().nonce == "n"


def test_a_descriptor_is_looked_up_by_a_short_lived_process(tree: Tree) -> None:
    symbol = b"envoy.service.discovery.v3.AggregatedDiscoveryService"
    question = b"\x22" + bytes([len(symbol)]) + symbol
    with grpc.insecure_channel(f"unix:{tree.socket}") as channel:
        call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None, None)
        (answer,) = call(iter([question]), timeout=20, wait_for_ready=True)
    assert b"envoy/service/discovery/v3/ads.proto" in answer


def test_nobody_is_refused_while_a_killed_downstream_process_is_replaced(
    tree: Tree, istiod: FakeIstiod
) -> None:
    held: list[socket.socket] = []

    def connect() -> None:
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(str(tree.socket))

    try:
        for _ in range(5):
            tree.kill("downstream-xds")
            for _ in range(20):
                connect()
        envoy = tree.envoy()
        envoy.send(request("delta", CDS, node="n"))
        assert istiod.next_stream().receive().type_url == CDS
    finally:
        for each in held:
            each.close()


def test_a_socket_that_somebody_removed_is_made_anew_by_the_next_process(
    tree: Tree, istiod: FakeIstiod
) -> None:
    tree.socket.unlink()
    tree.kill("downstream-xds")
    wait_for(tree.socket.exists, what="the socket")
    envoy = tree.envoy()
    envoy.send(request("delta", CDS, node="n"))
    assert istiod.next_stream().receive().type_url == CDS
