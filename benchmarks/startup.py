"""How long from exec until Envoy is ready: the agent, beside the same Envoy served by the lab directly.

One agent is started to take its Envoy's arguments, environment and bootstrap from. Then, in turn: the
agent with its Envoy against the lab's istiod, and that Envoy alone with those arguments and that
bootstrap against the lab's ADS and SDS on Unix sockets that listen already, with a certificate that is
there already. Ready is the admin port's `GET /ready` saying LIVE; for the agent also 200 from
`/healthz/ready` through Envoy's own port, which is what a kubelet asks for.

Caveats:
    - The agent has more to do than the Envoy that it is compared to: a key, a CSR, a certificate, TLS to
      istiod. Both come from the lab on the same machine; over a network that costs more.
    - Everything is in the page cache, and the `.pyc` files are written: the first start after an
      installation is slower.
    - The lab's istiod and this program's polling (every 2 ms) take their share of the processors.
"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from benchmarks.report import Report, Row, Spread
from benchmarks.rig import ACCOUNT, agent_for, mesh_on_free_ports, short_directory
from lab.direct import Direct
from lab.istiod import Istiod
from lab.mesh import Mesh
from tests.support.agent import RealAgent

_POLL_S: Final = 0.002
_DEADLINE_S: Final = 30.0
_SOCKETS: Final = ("etc/istio/proxy/XDS", "var/run/secrets/workload-spiffe-uds/socket")


def run(pairs: int = 15) -> Report:
    """Start `pairs` of each, in turn."""
    agents: list[float] = []
    through: list[float] = []
    alone: list[float] = []
    mesh = mesh_on_free_ports()
    with short_directory() as directory, Istiod(mesh) as istiod:
        with _agent(istiod, directory / "first") as first:
            first.wait_ready()
            taken = Taken.of(first)
        _start_agent(istiod, directory / "warm")  # not counted: the page cache and the .pyc files
        with direct(mesh, istiod, taken, directory / "direct"):
            for at in range(pairs):
                live_s, ready_s = _start_agent(istiod, directory / f"agent-{at}")
                agents.append(live_s * 1e3)
                through.append(ready_s * 1e3)
                alone.append(start_envoy(taken, directory / "direct") * 1e3)
    return _report(agents, through, alone)


def _report(agents: list[float], through: list[float], alone: list[float]) -> Report:
    base = Spread.of(alone)
    ratios = [one / base.median for one in agents]
    paired = [one / other for one, other in zip(agents, alone, strict=True)]
    return Report(
        question="from exec to a ready Envoy",
        rows=(
            Row(what="Envoy alone, LIVE", unit="ms", value=base),
            Row(what="agent, Envoy LIVE", unit="ms", value=Spread.of(agents)),
            Row(what="agent, ready through Envoy", unit="ms", value=Spread.of(through)),
            Row(what="LIVE: agent / median of alone", unit="ratio", value=Spread.of(ratios), target="≤ 2.2"),
            Row(what="LIVE: agent / alone, pair by pair", unit="ratio", value=Spread.of(paired)),
        ),
        notes=("order: agent, Envoy alone, agent, …; the Go agent's ratio is 1.9",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """How the agent starts its Envoy; for other benchmarks too."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    bootstrap: bytes
    admin_port: int

    @classmethod
    def of(cls, agent: RealAgent) -> Self:
        envoy = agent.envoys()[0]
        return cls(
            command=tuple(envoy.cmdline()),
            environment=envoy.environ(),
            bootstrap=(agent.directory / "etc/istio/proxy/envoy-rev0.json").read_bytes(),
            admin_port=agent.admin_port,
        )


def _agent(istiod: Istiod, directory: Path) -> RealAgent:
    return agent_for(istiod, directory)


def _start_agent(istiod: Istiod, directory: Path) -> tuple[float, float]:
    """Return the seconds until its Envoy is LIVE, and until it is ready through it."""
    agent = _agent(istiod, directory)
    started = time.perf_counter()
    with agent:
        live_s = seconds_until(started, agent.admin_port, "/ready", b"LIVE")
        return live_s, seconds_until(started, agent.ready_port, "/healthz/ready", b" 200 ")


def start_envoy(taken: Taken, directory: Path) -> float:
    """Return the seconds until an Envoy alone is LIVE."""
    with (directory / "envoy.log").open("ab") as log:
        started = time.perf_counter()
        envoy = subprocess.Popen(
            taken.command, cwd=directory, env=taken.environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        return seconds_until(started, taken.admin_port, "/ready", b"LIVE")
    finally:
        envoy.kill()
        envoy.wait(10)


@contextlib.contextmanager
def direct(mesh: Mesh, istiod: Istiod, taken: Taken, directory: Path) -> Iterator[Direct]:
    """Serve ADS and SDS to an Envoy without an agent."""
    xds, sds = (directory / path for path in _SOCKETS)
    pair = istiod.authority.issue(mesh.spiffe_id(ACCOUNT))
    with Direct(mesh, xds=xds, sds=sds, identity=pair, root_pem=istiod.root_pem) as direct:
        (xds.parent / "envoy-rev0.json").write_bytes(taken.bootstrap)
        yield direct


def seconds_until(started: float, port: int, path: str, sign: bytes) -> float:
    """Wait for a sign in the answer of a local port; return the seconds since `started` (perf_counter)."""
    while sign not in _ask(port, path):
        assert time.perf_counter() - started < _DEADLINE_S, f"port {port} {path}: not {sign!r} in time"
        time.sleep(_POLL_S)
    return time.perf_counter() - started


def _ask(port: int, path: str) -> bytes:
    """Return the whole answer, empty without one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return b""
