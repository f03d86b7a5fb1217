"""How many queries for known names one core answers, and what a table of 20,000 names costs."""

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from typing import Final

from benchmarks.report import Report, Row, Spread
from pilot_agent.dns.index import build
from pilot_agent.dns.listening import bind
from pilot_agent.dns.naming import Naming
from pilot_agent.dns.server import DnsServer
from pilot_agent.dns.table import NameTable
from pilot_agent.dns.upstream import UpstreamSettings
from proto_gen.istio.networking.nds.v1 import name_table_pb2

NAMES: Final = 20_000
_SECONDS: Final = 4.0
_WINDOW: Final = 32  # queries under way
_NAMING: Final = Naming.of(
    namespace="namespace-1", domain="namespace-1.svc.cluster.local", search=("namespace-1.svc.cluster.local",)
)


def run(times: int = 3) -> Report:
    """Measure; the server has the first core, the client the others."""
    raw = table(NAMES)
    builds, rates, costs, echoes = [], [], [], []
    index = b""
    for _ in range(times):
        began_s = time.perf_counter()
        index = build(raw, _NAMING)
        builds.append(time.perf_counter() - began_s)
        echoes.append(_ask_for_a_while(raw, "echo")[0])
        rate, cpu_s = _ask_for_a_while(raw)
        rates.append(rate)
        costs.append(cpu_s * 1e6)
    return Report(
        question="names known to the DNS proxy, over UDP",
        rows=(
            Row(what="answers", unit="1/s", value=Spread.of(rates), target="≥ 5000"),
            Row(what="of a server that sends each query back", unit="1/s", value=Spread.of(echoes)),
            Row(
                what="answers / queries sent back",
                unit="ratio",
                value=Spread.of([one / other for one, other in zip(rates, echoes, strict=True)]),
            ),
            Row(what="CPU of the server for one", unit="µs", value=Spread.of(costs)),
            Row(
                what=f"table of {NAMES} names and its index / its own bytes",
                unit="ratio",
                value=Spread.of([(len(raw) + len(index)) / len(raw)]),
                target="≤ 2",
            ),
            Row(what=f"making the index of {len(raw)} bytes", unit="s", value=Spread.of(builds)),
        ),
        notes=(f"one client, {_WINDOW} queries under way, {_SECONDS:g} s a time",),
    )


def table(names: int) -> bytes:
    """Return a name table as istiod would send it for so many services."""
    message = name_table_pb2.NameTable()
    for n in range(names):
        entry = message.table[f"service-{n:05}.namespace-{n % 50}.svc.cluster.local"]
        entry.ips.append(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
        entry.registry, entry.shortname, entry.namespace = (
            "Kubernetes",
            f"service-{n:05}",
            f"namespace-{n % 50}",
        )
    return message.SerializeToString()


def question(n: int) -> bytes:
    """Return the query for the address of one of the names."""
    labels = (f"service-{n:05}", f"namespace-{n % 50}", "svc", "cluster", "local")
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels)
    return (n & 0xFFFF).to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0" + name + b"\0\0\1\0\1"


def _ask_for_a_while(raw: bytes, *words: str) -> tuple[float, float]:
    """Return answers a second, and CPU seconds of the server for each; "echo" asks the least server."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dns", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(len(raw).to_bytes(8, "big"))
        _write_all(server.stdin.fileno(), raw)
        port = int(server.stdout.readline())
        answers = _ask(port)
        server.stdin.close()
        cpu_s = float(server.stdout.readline())
    return answers / _SECONDS, cpu_s / answers


def _ask(port: int) -> int:
    questions = [question(n * 7 % NAMES) for n in range(NAMES)]
    answers = 0
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(5)
        for n in range(_WINDOW):
            client.send(questions[n])
        end_s = time.monotonic() + _SECONDS
        while time.monotonic() < end_s:
            assert client.recv(512)[3] & 15 == 0
            answers += 1
            client.send(questions[(answers + _WINDOW) % NAMES])
    return answers


def _serve() -> None:
    """Be the server: a table on stdin, the port and at the end the CPU seconds on stdout."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    raw = sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "big"))
    if "echo" in sys.argv:
        _echo()
        return
    sockets = bind([("127.0.0.1", 0)])
    server = DnsServer(sockets, UpstreamSettings(name_servers=()), _Count())
    server.table = NameTable(raw, build(raw, _NAMING), _NAMING)
    threading.Thread(target=server.run, daemon=True).start()
    before_s = _cpu_s()
    print(sockets[0].getsockname()[1], flush=True)
    sys.stdin.buffer.read()
    print(_cpu_s() - before_s, flush=True)
    server.close()


def _echo() -> None:
    """Be the least server that the same questions can be put to."""
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.bind(("127.0.0.1", 0))
        threading.Thread(target=_send_back, args=(plain,), daemon=True).start()
        before_s = _cpu_s()
        print(plain.getsockname()[1], flush=True)
        sys.stdin.buffer.read()
        print(_cpu_s() - before_s, flush=True)


def _send_back(plain: socket.socket) -> None:
    while True:
        query, client = plain.recvfrom(512)
        plain.sendto(query, client)


class _Count:
    """Counts as an actor's context does."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._lock = threading.Lock()

    def count(self, name: str, value: float = 1.0, **_: str) -> None:
        with self._lock:
            self._values[name] = self._values.get(name, 0.0) + value


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    _serve()
