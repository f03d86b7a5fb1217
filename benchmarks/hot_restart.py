"""What clients notice of hot restarts: 1,000 requests a second while Envoy is replaced again and again.

A real agent with the lab's istiod; its Envoy has two further listeners, an HTTP one that answers by itself
and a TCP one to an echo. A third of the requests each goes over kept HTTP/1.1 connections (`wrk`), over
HTTP/2 and over HTTP/1.1 connections for one request each (`h2load`); a thread of this program opens 20 TCP
connections a second, and holds one over each restart.

Caveats:
    - Load generator, control plane, agent and Envoy share the processors.
    - The load generators are started anew each second, so kept connections are no older than that.
    - The latencies of the kept connections have the pause of `wrk` between two requests in them, 14 ms.
    - Latencies are those of the whole time with one restart after the other, and of the seconds before the
      first one.
"""

import contextlib
import json
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.native_load import NativeLoad
from benchmarks.report import Report, Row, Spread
from benchmarks.rig import (
    FILTER_TYPES,
    address,
    agent_for,
    answering_listener,
    listener,
    mesh_on_free_ports,
    short_directory,
)
from lab.istiod import Istiod
from tests.support.agent import RealAgent, command
from tests.support.real_envoy import free_ports
from tests.support.waiting import wait_for

_QUIET_S: Final = 5
_RATE: Final = 340  # requests a second of each kind
_TCP_PAUSE_S: Final = 0.05
_DRAIN_S: Final = 1
_WINDOW_S: Final = 1.0  # from LIVE on, in which a restart is still felt


def run(restarts: int = 3) -> Report:
    """Do so many hot restarts under load, one as soon as the old epoch of the one before has ended."""
    http_port, tcp_port = free_ports(2)
    with (
        short_directory() as directory,
        Istiod(mesh_on_free_ports()) as istiod,
        _echo() as echo_port,
        _agent(istiod, directory / "agent", http_port, tcp_port, echo_port) as agent,
    ):
        agent.wait_ready()
        with (
            _Tcp(tcp_port) as tcp,
            NativeLoad(directory, f"http://127.0.0.1:{http_port}/", rate=_RATE) as load,
        ):
            time.sleep(_QUIET_S)
            spans = [_restart(agent, number, tcp) for number in range(1, restarts + 1)]
        return _report(restarts, load, spans, tcp)


def _restart(agent: RealAgent, epoch: int, tcp: "_Tcp") -> tuple[float, float]:
    """Restart once; return when it began and when its effect is over (seconds since the Unix epoch)."""
    with tcp.held():
        return _restarted(agent, epoch, tcp)


def _restarted(agent: RealAgent, epoch: int, tcp: "_Tcp") -> tuple[float, float]:
    began = time.time()
    subprocess.run([*command(), "restart", f"--status-port={agent.status_port}"], check=True, timeout=30)
    wait_for(lambda: _epoch(agent) == epoch, within_s=30, what=f"epoch {epoch}")
    live = time.time()
    time.sleep(_WINDOW_S)
    tcp.look_at_the_held_one()
    wait_for(lambda: len(agent.envoys()) == 1, within_s=30, what="the end of the old epoch")
    return began, live + _WINDOW_S


def _epoch(agent: RealAgent) -> int:
    """Return the epoch that has the admin port and is LIVE, -1 while there is none."""
    with contextlib.suppress(OSError, ValueError):
        info = json.loads(agent.admin("/server_info"))
        if info["state"] == "LIVE":
            return int(info["command_line_options"]["restart_epoch"])
    return -1


def _agent(istiod: Istiod, directory: Path, http_port: int, tcp_port: int, echo_port: int) -> RealAgent:
    directory.mkdir(parents=True)
    override = {
        "static_resources": {
            "listeners": [answering_listener("bench-http", http_port), _tcp(tcp_port)],
            "clusters": [_cluster("echo", echo_port)],
        }
    }
    (directory / "override.json").write_text(json.dumps(override), encoding="utf-8")
    config = {"drainDuration": f"{_DRAIN_S}s", "parentShutdownDuration": "1s"}
    variables = {"ISTIO_BOOTSTRAP_OVERRIDE": "override.json"}
    return agent_for(istiod, directory, environment=variables, proxy_config=config)


class _Tcp:
    """New TCP connections one after the other, and now and then one that is held over a restart."""

    def __init__(self, port: int) -> None:
        self._port, self._ending = port, threading.Event()
        self.opened, self.held_alive, self.failures = 0, 0, list[str]()
        self._held: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold a connection that is there before the restart."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=5) as self._held:
            self._held.sendall(b"first")
            assert self._held.recv(5) == b"first", "no echo"
            yield

    def look_at_the_held_one(self) -> None:
        """Count it if it still echoes: only the old epoch's end may end it."""
        assert self._held is not None
        with contextlib.suppress(OSError):
            self._held.sendall(b"again")
            self.held_alive += self._held.recv(5) == b"again"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._ending.wait(_TCP_PAUSE_S):
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=5) as client:
                    client.sendall(b"hello")
                    assert client.recv(5) == b"hello", "no echo"
                    self.opened += 1
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))


@contextlib.contextmanager
def _echo() -> Iterator[int]:
    """A TCP server that says what it hears; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                while data := client.recv(4096):
                    client.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])


def _report(restarts: int, load: NativeLoad, spans: list[tuple[float, float]], tcp: _Tcp) -> Report:
    rows = []
    for kind in load.kinds:
        before = _p99([each.took_ms for each in kind.samples if each.at_s < spans[0][0] - 1])
        felt = [
            each.took_ms
            for each in kind.samples
            if any(begin - 1 <= each.at_s <= end for begin, end in spans)
        ]
        rows += [
            _row(f"{kind.name}: answered", "", kind.requests),
            _row(f"{kind.name}: failed", "", kind.lost, "0"),
            _row(f"{kind.name}: p99 before", "ms", before),
            _row(
                f"{kind.name}: p99 from spawn to LIVE + 1 s", "ms", _p99(felt), f"≤ {max(3 * before, 20):.3g}"
            ),
        ]
    rows.append(_row("TCP: connections opened", "", tcp.opened))
    rows.append(_row("TCP: held, alive 1 s after LIVE", "", tcp.held_alive, str(restarts)))
    rows.append(_row("TCP: refused or lost at the start", "", len(tcp.failures), "0"))
    return Report(
        question=f"{restarts} hot restarts under 1,000 requests a second",
        rows=tuple(rows),
        notes=tuple(tcp.failures[:3]),
    )


def _row(what: str, unit: str, value: float, target: str = "") -> Row:
    return Row(what=what, unit=unit, value=Spread.of([value]), target=target)


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else 0.0


def _tcp(port: int) -> dict[str, Any]:
    config = {"@type": f"{FILTER_TYPES}.tcp_proxy.v3.TcpProxy", "stat_prefix": "bench", "cluster": "echo"}
    return listener("bench-tcp", port, "tcp_proxy", config)


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}
