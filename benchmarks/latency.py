"""What the agent adds to an xDS round trip: request up, response down, beside a direct stream.

A client that sends and takes plain bytes has two Delta ADS streams to the same server over TLS: one
directly, one through the agent's Unix socket. It asks and waits for the answer, many times, in rounds that
change between the two. The server is `benchmarks.echo`, in a process of its own.

Caveats:
    - Client and server are Python's gRPC; their share is in both figures, so that the difference means
      more than the ratio.
    - One request is under way at a time: it is a latency, no throughput.
    - The agent's Envoy is a program that sleeps: a real one would take part in the stream's generation and
      send requests of its own.
    - "direct" has one connection over loopback; the agent has a Unix socket more and two more processes.
    - What is accepted goes to the disk as the last known good configuration, half a second behind the last
      message. Where that is much, the next round waits for it: it would be in the direct stream's figures.
"""

import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import psutil
from envoy.service.discovery.v3 import discovery_pb2

from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from lab.ads import ADS_SERVICE
from lab.istiod import SERVER_NAMES, Istiod
from lab.snapshot import EDS
from tests.support.agent import RealAgent
from tests.support.waiting import wait_for

_ROUNDS: Final = 5
_METHOD: Final = f"/{ADS_SERVICE}/DeltaAggregatedResources"
_MUCH_BYTES: Final = 1 << 20
_REST_S, _REST_CPU_S = 0.7, 0.03
_UNLIMITED: Final = (("grpc.max_receive_message_length", -1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How often a round asks for a response of this size."""

    label: str
    size_bytes: int
    times: int
    added: str = ""  # targets
    ratio: str = ""
    parts: int = 0  # resources; 0: as many as usual

    @property
    def name(self) -> str:
        """Return what the echo server knows it by."""
        return f"size-{self.size_bytes}" + (f"-in-{self.parts}" if self.parts else "")


_SIZES: Final = (
    Size(label="200 B", size_bytes=200, times=1000, added="≤ 0.30"),
    Size(label="100 kB", size_bytes=100_000, times=200),
    Size(label="10 MB", size_bytes=10_000_000, times=8, ratio="≤ 1.75"),
    Size(label="50 MB", size_bytes=50_000_000, times=3, ratio="≤ 1.9"),
)


def run(rounds: int = _ROUNDS) -> Report:
    """Measure all sizes in `rounds` rounds each; a row's spread is that of the rounds' medians."""
    rows: list[Row] = []
    with two_streams() as (direct, through, agent):
        for size in _SIZES:
            rows += _measure(direct, through, size, rounds, agent)
    return Report(question="xDS round trip, request to response", rows=tuple(rows))


def _measure(direct: "Stream", through: "Stream", size: Size, rounds: int, agent: RealAgent) -> Iterator[Row]:
    for stream in (direct, through):
        stream.ask(size)
        stream.round(size)  # not counted
    pairs = []
    for _ in range(rounds):
        if size.size_bytes >= _MUCH_BYTES:
            _wait_for_rest(agent)
        pairs.append((direct.round(size), through.round(size)))
    medians = [(statistics.median(one), statistics.median(other)) for one, other in pairs]
    tails = [(_p99(one), _p99(other)) for one, other in pairs]

    def row(what: str, values: list[float], unit: str = "ms", target: str = "") -> Row:
        return Row(what=f"{size.label}, {what}", unit=unit, value=Spread.of(values), target=target)

    yield row("direct p50", [one for one, _ in medians])
    yield row("agent p50", [other for _, other in medians])
    yield row("added p50", [other - one for one, other in medians], target=size.added)
    yield row("agent / direct p50", [other / one for one, other in medians], "ratio", size.ratio)
    yield row("direct p99", [one for one, _ in tails])
    yield row("agent p99", [other for _, other in tails])


def _wait_for_rest(agent: RealAgent) -> None:
    """Wait until the agent's processes do nothing any more."""
    before_s, used_s = 0.0, _cpu_s(agent)
    while used_s - before_s >= _REST_CPU_S:
        time.sleep(_REST_S)
        before_s, used_s = used_s, _cpu_s(agent)


def _cpu_s(agent: RealAgent) -> float:
    total_s = 0.0
    for process in agent.family():
        with suppress(psutil.NoSuchProcess):  # a worker that has just ended
            total_s += sum(process.cpu_times()[:2])
    return total_s


def _p99(values: list[float]) -> float:
    return sorted(values)[min(int(len(values) * 0.99), len(values) - 1)]


class Stream:
    """One stream that asks and waits, with bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = channel.stream_stream(_METHOD, None, None)
        self._call = call(iter(self._requests.get, None), wait_for_ready=True)
        self._responses: Iterator[bytes] = iter(self._call)

    def ask(self, size: Size) -> None:
        """Subscribe; the answer has the size."""
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=EDS, resource_names_subscribe=[size.name, "*"])
        request.node.id = "sidecar~127.0.0.1~bench.default~default.svc.cluster.local"
        self._requests.put(request.SerializeToString())
        next(self._responses)

    def round(self, size: Size) -> list[float]:
        """Return the milliseconds of each round trip; each request acknowledges the response before."""
        ack = discovery_pb2.DeltaDiscoveryRequest(type_url=EDS, response_nonce=size.name).SerializeToString()
        found = []
        for _ in range(size.times):
            started = time.perf_counter()
            self._requests.put(ack)
            got = next(self._responses)
            found.append((time.perf_counter() - started) * 1e3)
            assert abs(len(got) - size.size_bytes) < size.size_bytes / 10, len(got)
        return found

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it untyped


@contextmanager
def two_streams(**environment: str) -> Iterator[tuple[Stream, Stream, RealAgent]]:
    """Yield the direct stream and the one through the agent, and the agent, which gets these variables."""
    with short_directory() as directory, Istiod(mesh_on_free_ports()) as ca, _echo(ca, directory) as server:
        credentials = grpc.ssl_channel_credentials(ca.root_pem.encode())
        with (
            _agent(ca, directory / "agent", server, environment) as agent,
            grpc.secure_channel(server, credentials, _UNLIMITED) as far,
        ):
            socket_path = agent.directory / "etc/istio/proxy/XDS"
            wait_for(socket_path.exists, what="the agent's XDS socket", within_s=30)
            with grpc.insecure_channel(f"unix:{socket_path}", _UNLIMITED) as near:
                streams = Stream(far), Stream(near)
                try:
                    yield *streams, agent
                finally:
                    for stream in streams:
                        stream.close()


def _agent(ca: Istiod, directory: Path, server: str, environment: Mapping[str, str]) -> RealAgent:
    directory.mkdir(parents=True)
    asleep = directory / "envoy"
    asleep.write_text("#!/bin/sh\nexec sleep 3600\n")
    asleep.chmod(0o755)
    return agent_for(
        ca,
        directory,
        discovery=server,
        environment={"CA_ADDR": ca.address} | dict(environment),
        proxy_config={"binaryPath": str(asleep)},
    )


@contextmanager
def _echo(ca: Istiod, directory: Path) -> Iterator[str]:
    """Run the server in a process of its own; yield its address."""
    pair = ca.authority.issue(*SERVER_NAMES)
    key, chain = directory / "key.pem", directory / "chain.pem"
    key.write_bytes(pair.private_key_pem)
    chain.write_bytes(pair.certificate_chain_pem)
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.echo", str(key), str(chain)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    try:
        yield f"127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.communicate(timeout=15)
