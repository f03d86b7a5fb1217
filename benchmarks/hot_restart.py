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
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from lab.istiod import Istiod
from tests.support.agent import RealAgent, command
from tests.support.real_envoy import free_ports
from tests.support.waiting import wait_for

_QUIET_S: Final = 5
_RATE: Final = 340  # requests a second of each kind
_CLIENTS: Final = 5
_TCP_PAUSE_S: Final = 0.05
_DRAIN_S: Final = 1
_WINDOW_S: Final = 1.0  # from LIVE on, in which a restart is still felt
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters.network"


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
        with _Tcp(tcp_port) as tcp, _Native(directory, http_port) as load:
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
            "listeners": [_http(http_port), _tcp(tcp_port)],
            "clusters": [_cluster("echo", echo_port)],
        }
    }
    (directory / "override.json").write_text(json.dumps(override), encoding="utf-8")
    config = {"drainDuration": f"{_DRAIN_S}s", "parentShutdownDuration": "1s"}
    variables = {"ISTIO_BOOTSTRAP_OVERRIDE": "override.json"}
    return agent_for(istiod, directory, environment=variables, proxy_config=config)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Requests of one moment: one of h2load's, or a second's worth of wrk's, of which the 99th percentile."""

    at_s: float  # Unix time
    took_ms: float


@dataclass(slots=True)
class _Kind:
    """One kind of requests: what it is sent with, and what came of it."""

    name: str
    command: list[str]
    requests: int = 0
    lost: int = 0  # begun and not answered with 200
    samples: list[_Sample] = field(default_factory=list)

    def run_once(self) -> None:
        raise NotImplementedError


class _H2load(_Kind):
    def run_once(self) -> None:
        """Send a second's worth; the log has one line a request: begin in µs, status, duration in µs."""
        with tempfile.NamedTemporaryFile("r", encoding="ascii") as log:
            command = [*self.command[:-1], f"--log-file={log.name}", self.command[-1]]
            told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
            for line in log:
                at, _, took = line.split("\t")
                self.samples.append(_Sample(int(at) / 1e6, int(took) / 1e3))
        found = re.search(r"^requests: \d+ total, (\d+) started, .* (\d+) succeeded", told, re.MULTILINE)
        assert found, f"unexpected words of h2load: {told[-500:]}"
        self.requests += int(found[2])
        self.lost += int(found[1]) - int(found[2])  # what it did not begin on a closed connection is not lost


class _Wrk(_Kind):
    def run_once(self) -> None:
        """Send a second's worth; it opens a connection anew when a drained Envoy has closed it in order."""
        began_s = time.time()
        told = subprocess.run(self.command, capture_output=True, text=True, timeout=30, check=True).stdout
        found = re.search(r"99%\s+([\d.]+)(us|ms|s)\s+(\d+) requests in", told)
        assert found, f"unexpected words of wrk: {told[-500:]}"
        self.samples.append(_Sample(began_s, float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]))
        self.requests += int(found[3])
        for errors in re.findall(r"(?:connect|read|write|timeout|responses:?) (\d+)", told):
            self.lost += int(errors)


class _Native:
    """Three load generators, each started anew every second."""

    def __init__(self, directory: Path, port: int) -> None:
        h2load, wrk = _tool("h2load", "nghttp2-client"), _tool("wrk", "wrk")
        script = directory / "pause.lua"
        script.write_text(f"function delay() return {1000 * _CLIENTS // _RATE} end\n", encoding="ascii")
        url, amount = f"http://127.0.0.1:{port}/", ["-n", str(_RATE)]
        fresh = ["--h1", *amount, "-c", str(_RATE), "-r", str(_RATE // 10), "--rate-period=100ms"]
        paced = ["-c", str(_CLIENTS), f"--rps={_RATE // _CLIENTS}"]
        kept = ["-t1", f"-c{_CLIENTS}", "-d1s", "--latency", "-s", str(script)]
        self.kinds: tuple[_Kind, ...] = (
            _Wrk("HTTP/1.1, kept", [wrk, *kept, url]),
            _H2load("HTTP/2", [h2load, *amount, *paced, url]),
            _H2load("HTTP/1.1, new connections", [h2load, *fresh, url]),
        )
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kind,), daemon=True) for kind in self.kinds]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, kind: _Kind) -> None:
        while not self._ending.is_set():
            next_s = time.monotonic() + 1.0
            kind.run_once()
            self._ending.wait(max(next_s - time.monotonic(), 0.0))


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not on PATH (Debian: {package})"
    return found


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


def _report(restarts: int, load: _Native, spans: list[tuple[float, float]], tcp: _Tcp) -> Report:
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


def _address(port: int) -> dict[str, Any]:  # Any: JSON, here and below
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(name: str, port: int, filter_name: str, config: dict[str, Any]) -> dict[str, Any]:
    filters = [{"name": f"envoy.filters.network.{filter_name}", "typed_config": config}]
    return {"name": name, "address": _address(port), "filter_chains": [{"filters": filters}]}


def _http(port: int) -> dict[str, Any]:
    answer = {"status": 200, "body": {"inline_string": "ok"}}
    routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    config = {
        "@type": f"{_TYPES}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    return _listener("bench-http", port, "http_connection_manager", config)


def _tcp(port: int) -> dict[str, Any]:
    config = {"@type": f"{_TYPES}.tcp_proxy.v3.TcpProxy", "stat_prefix": "bench", "cluster": "echo"}
    return _listener("bench-tcp", port, "tcp_proxy", config)


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}
