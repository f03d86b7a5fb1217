"""What the xDS path is not to be brought down by: messages, streams and bytes without measure.

Real processes. Their memory is PSS and the pages of memory files, sampled each 5 ms by a process of its own.
"""

import os
import queue
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import MIB
from actors.tree import specs_for
from benchmarks.tree_memory import measure, peak_of
from pilot_agent.xds.options import XdsOptions
from tests.support import xds_tree
from tests.support.fake_istiod import METHODS, EnvoyClient, FakeIstiod, IstiodSideStream
from tests.support.process_tree import quit_tree
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, ack, request, response

STREAMS = int(os.environ.get("PILOT_AGENT_STREAMS", "300"))
"""Opened and dropped in a row; 1,000 were tried when this was written."""
LIMIT = 100  # of streams at once
PATIENCE_S = 60.0  # with a machine that is busy otherwise
MB = 1_000_000
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the memory of processes is for root alone")


class Tree:
    """The two actors under the real supervisor, and what they hold."""

    def __init__(self, directory: Path, istiod: FakeIstiod) -> None:
        self.istiod, self.socket, self._log = istiod, directory / "XDS", directory / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, xds_tree.__file__, str(directory), istiod.address],
                stdout=log,
                stderr=log,
                env=os.environ | {"KEEP": "yes"},
            )
        wait_for(self.socket.exists, within_s=PATIENCE_S, what="the socket")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pids(self) -> set[int]:
        return {each.pid for each in psutil.Process(self.process.pid).children()}

    @property
    def bytes_held(self) -> int:
        return measure(self.process.pid).total

    @property
    def threads(self) -> int:
        return sum(each.num_threads() for each in psutil.Process(self.process.pid).children())

    @property
    def descriptors(self) -> int:
        return sum(each.num_fds() for each in psutil.Process(self.process.pid).children())

    @contextmanager
    def stream(self, variant: str) -> Iterator[tuple[EnvoyClient, IstiodSideStream]]:
        """Yield both ends of a stream on which something small has passed."""
        envoy = EnvoyClient(f"unix:{self.socket}", variant)
        try:
            envoy.send(request(variant, CDS, node="sidecar~1"))
            far = self.istiod.next_stream(PATIENCE_S)
            far.receive()
            pushed(envoy, far, variant, 1000)
            yield envoy, far
        finally:
            envoy.close()


def opened(channel: grpc.Channel, number: int) -> Any:
    """Return a stream of an Envoy of its own that asks for clusters and stays open."""
    asking: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    asking.put(request("delta", CDS, node="n").SerializeToString())
    call: Any = channel.stream_stream(METHODS["delta"], None, None)
    return call(iter(asking.get, b""), metadata=(("x-envoy-generation", str(number)),))


def pushed(envoy: EnvoyClient, stream: IstiodSideStream, variant: str, size_bytes: int) -> None:
    """Push so many bytes and have them acknowledged."""
    pushed = response(variant, CDS, f"n{size_bytes}", f"v{size_bytes}", cluster=b"x" * size_bytes)
    body = pushed.SerializeToString()
    stream.send(body)
    assert envoy.receive_bytes(PATIENCE_S) == body
    envoy.send(ack(variant, pushed))
    assert stream.receive(PATIENCE_S).response_nonce == f"n{size_bytes}"


@pytest.fixture
def istiod() -> Iterator[FakeIstiod]:
    server = FakeIstiod().start()
    yield server
    server.kill()


@pytest.fixture
def tree(istiod: FakeIstiod, tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path, istiod)
    pids = wait_for(lambda: made.pids if len(made.pids) == 2 else None, what="both actors")
    yield made
    died = pids - made.pids
    quit_tree(made.process)
    assert died == set(), "an actor was restarted"
    assert "Traceback" not in made.log()


@pytest.mark.parametrize(("message_mib", "limit_mib"), [(128, 704), (1024, 5184), (1, 96)])
def test_the_watchdog_leaves_room_for_five_messages_of_the_limit(message_mib: int, limit_mib: int) -> None:
    specs = specs_for(
        Settings([XdsOptions(socket_path="", upstream_address="", message_limit_bytes=message_mib * MIB)])
    )
    limits = {spec.role: spec.private_limit_bytes // MIB for spec in specs}
    assert (limits[Role.UPSTREAM_XDS], limits[Role.DOWNSTREAM_XDS]) == (limit_mib, limit_mib)
    assert limits[Role.CERT] == 96


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_message_of_100_mb_passes_in_a_few_times_its_memory_and_leaves_none_behind(
    tree: Tree, variant: str
) -> None:
    with tree.stream(variant) as (envoy, stream):
        idle = tree.bytes_held
        with peak_of(tree.process.pid) as peak:
            pushed(envoy, stream, variant, 100 * MB)
        assert peak["peak"] < idle + 4.5 * 100 * MB  # measured: 4.0
        wait_for(lambda: tree.bytes_held < 1.25 * idle, within_s=PATIENCE_S, what="the memory given back")


GARBAGE: dict[str, Callable[[], bytes]] = {
    "random": lambda: random.Random(1).randbytes(50 * MB),
    "empty texts": lambda: b"\x12\x00" * (25 * MB),
    "numbers": lambda: b"\x08\x01" * (25 * MB),
    "half a message": lambda: response("delta", CDS, "n", cluster=b"x" * 50 * MB).SerializeToString()[:-1],
    "a type of great length": lambda: b"\x22\x80\xe1\xeb\x17" + b"x" * 50 * MB,
    "one length too many": lambda: b"\x12\xff\xff\xff\xff\x0f" + b"x" * 50 * MB,
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_of_50_mb_ends_the_stream_to_istiod_alone_and_leaves_no_memory_behind(
    tree: Tree, garbage: str
) -> None:
    bad = GARBAGE[garbage]()
    with tree.stream("delta") as (envoy, stream):
        idle = tree.bytes_held
        with peak_of(tree.process.pid) as peak:
            stream.send(bad)
            again = tree.istiod.next_stream(PATIENCE_S)
        assert "malformed response from the XDS server" in tree.log()
        assert peak["peak"] < idle + 4 * len(bad) + 64 * MB
        assert again.receive().type_url == CDS
        pushed(envoy, again, "delta", 2000)
        wait_for(lambda: tree.bytes_held < 1.25 * idle, within_s=PATIENCE_S, what="the memory given back")


def test_streams_that_are_opened_and_dropped_are_bounded_and_leave_nothing_behind(tree: Tree) -> None:
    """Above a hundred at once they are refused; none waits in silence."""
    with tree.stream("delta") as (envoy, stream):
        threads, descriptors, idle = tree.threads, tree.descriptors, tree.bytes_held
        with grpc.insecure_channel(f"unix:{tree.socket}") as channel:
            kept = [opened(channel, number) for number in range(STREAMS)]
            for dropped in kept[::2]:
                dropped.cancel()
            kept = kept[1::2]
            wait_for(
                lambda: sum(call.is_active() for call in kept) < LIMIT,
                within_s=PATIENCE_S,
                what="the others' refusal",
            )
            refused = [call.code() for call in kept if not call.is_active()]
            assert len(refused) > STREAMS // 2 - LIMIT
            assert set(refused) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        wait_for(lambda: tree.threads <= threads + 2, within_s=PATIENCE_S, what="the end of all threads")
        wait_for(
            lambda: tree.descriptors <= descriptors + 4,
            within_s=PATIENCE_S,
            what="the end of all descriptors",
        )
        wait_for(lambda: tree.bytes_held < idle + 15 * MB, within_s=PATIENCE_S, what="the memory given back")
        pushed(envoy, stream, "delta", 2000)
