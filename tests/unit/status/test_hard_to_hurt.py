"""The status port under hostile clients and targets: readiness is still answered, and soon."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support.http_peer import HttpPeer, closed_port, reply
from tests.support.status_client import Raw, get, open_client, read_answer
from tests.support.waiting import wait_for

LIMIT_MS = 50
READY = "/app-health/app/readyz"
SERVER = """
import socket, sys, time
from pilot_agent.status.app.configuration import AppProber
from pilot_agent.status.counters import Counters
from pilot_agent.status.metrics.targets import ScrapeTarget
from pilot_agent.status.options import StatusOptions
from pilot_agent.status.pages import Pages
from pilot_agent.status.server import StatusServer

port, silent = int(sys.argv[1]), int(sys.argv[2])

class Backend:
    def not_ready_because(self): return None
    def samples(self): return []
    def command_line(self): return b""
    def name_table(self):
        time.sleep(2)  # as an actor that has no time
        return b"{}"
    def xds_streams(self): return self.name_table()
    def start_dns(self): print("start dns", flush=True)
    def command(self, verb): print("command", verb, flush=True)

options = StatusOptions(
    envoy_prometheus_port=silent,
    scrape_targets=(ScrapeTarget(port=silent, path="/metrics"),),
    app_probers={"/app-health/app/readyz": AppProber(kind="http", port=silent, timeout_s=2.0)},
    app_host="127.0.0.1",
)
listener = socket.create_server(("127.0.0.1", port), backlog=512)
server = StatusServer(listener, Pages(options, Backend(), Counters({}), lambda: None).answer)
print("serving", flush=True)
server.serve()
"""


class Port:
    """A status port in a process of its own, whose every target accepts and says nothing."""

    def __init__(self) -> None:
        self.silent = HttpPeer(lambda _: None)
        self.port = closed_port()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.port), str(self.silent.port)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            env=os.environ | {"PYTHONPATH": "."},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"serving\n"
        self.calm_ms = p99_ms(self.port, 100)

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def pss_kib(self) -> int:
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.silent.close()


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.close()


class Attack:
    """Runs `blow` again and again in some threads until the block ends."""

    def __init__(self, blow: Callable[[], object], threads: int = 4) -> None:
        self._blow, self._over = blow, threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(15)

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                self._blow()
            self._over.wait(0.005)


def p99_ms(port: int, count: int = 200) -> float:
    """Ask for readiness as a prober does; a connection that is cut under it is a failure."""
    took_ms = []
    for _ in range(count):
        began_s = time.monotonic()
        assert get(port, "/healthz/ready").status == 200
        took_ms.append((time.monotonic() - began_s) * 1000)
    return sorted(took_ms)[int(count * 0.99) - 1]


def assert_responsive(port: Port) -> None:
    """50 ms on a machine that does nothing else; what others do on it is not the port's fault."""
    rounds_ms = []
    for _ in range(3):
        rounds_ms.append(p99_ms(port.port))
        if rounds_ms[-1] <= LIMIT_MS + 5 * port.calm_ms:
            return
    pytest.fail(f"p99 of readiness in ms: {rounds_ms}, without an attack {port.calm_ms}")


def slow_loris(port: int, held: list[socket.socket]) -> None:
    client = open_client(port)
    held.append(client)
    client.sendall(b"GET /healthz/ready HTTP/1.1\r\nX-Slow: ")


@pytest.fixture
def held() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def test_a_thousand_slow_clients_do_not_hold_readiness_up(port: Port, held: list[socket.socket]) -> None:
    for _ in range(1000):
        slow_loris(port.port, held)
    assert_responsive(port)
    with Attack(lambda: slow_loris(port.port, held)):
        assert_responsive(port)
    assert port.threads() <= 80
    assert port.pss_kib() < 40_000


MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    b"POST /drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\0" * 70_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


def send_and_read(port: int, data: bytes) -> bytes:
    found = b""
    with open_client(port) as client, contextlib.suppress(OSError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65536):
            found += piece
    return found


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_request_is_refused_and_changes_nothing(port: Port, data: bytes) -> None:
    found = send_and_read(port.port, data)
    assert found == b"" or found.startswith(b"HTTP/1.1 4"), found[:100]
    assert get(port.port, "/healthz/ready").status == 200


def test_a_flood_of_garbage_does_not_hold_readiness_up(port: Port) -> None:
    turn = iter(range(1_000_000))
    with Attack(lambda: send_and_read(port.port, MALFORMED[next(turn) % len(MALFORMED)]), threads=2):
        assert_responsive(port)


def test_targets_that_never_answer_do_not_hold_readiness_up(port: Port) -> None:
    def ask(path: str) -> None:
        with open_client(port.port) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            client.settimeout(0.2)
            client.recv(100)

    with Attack(lambda: ask(READY), threads=20), Attack(lambda: ask("/metrics"), threads=10):
        wait_for(lambda: len(port.silent.requests) > 20, what="probes under way")
        assert_responsive(port)
        # Who was told to leave may not have had a turn yet.
        wait_for(lambda: port.threads() <= 64 + 32 + 3 * 32 + 10, what=f"the bound, {port.threads()} threads")


def test_questions_that_another_part_does_not_answer_do_not_hold_readiness_up(port: Port) -> None:
    def ask_and_leave() -> None:
        with open_client(port.port) as client:
            client.sendall(b"GET /debug/ndsz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.settimeout(0.05)
            client.recv(100)

    with Attack(ask_and_leave, threads=10):
        wait_for(lambda: port.threads() > 8, what="questions under way")
        assert_responsive(port)
        assert port.threads() <= 64 + 16 + 10


def test_without_another_descriptor_a_scrape_fails_and_the_port_goes_on(port: Port) -> None:
    pid, limit = port.process.pid, resource.RLIMIT_NOFILE

    def ask(path: str) -> Raw:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return read_answer(client)

    with open_client(port.port) as client:
        assert ask("/healthz/ready").status == 200
        wait_for(lambda: port.threads() == 2, what="the end of every other connection")
        used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
        free = next(number for number in range(1024) if number not in used)
        resource.prlimit(pid, limit, (free, resource.prlimit(pid, limit)[1]))
        page = ask("/metrics")
        assert page.status == 200
        for kind in ("envoy", "application"):
            assert f'istio_agent_scrape_failures_total{{type="{kind}"}} 1'.encode() in page.body
        assert ask(READY).status == 500
        assert ask("/healthz/ready").status == 200


def test_readers_that_take_nothing_do_not_hold_readiness_up(port: Port, held: list[socket.socket]) -> None:
    for _ in range(100):
        client = open_client(port.port)
        held.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
    assert_responsive(port)


def size_of_metrics(port: Port) -> int:
    size = 0
    with open_client(port.port) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while piece := client.recv(1 << 20):
            size += len(piece)
    return size


def test_a_page_of_many_megabytes_is_never_held(port: Port) -> None:
    large = b'envoy_some_metric_with_a_long_name{a="b"} 12345\n' * 300_000  # 15 MB
    port.silent.answer = lambda request: reply("200 OK", large) if b"/stats/" in request else reply("200 OK")
    assert size_of_metrics(port) > len(large)
    before_kib, peak_kib, over = port.pss_kib(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak_kib
        while not over.wait(0.005):
            peak_kib = max(peak_kib, port.pss_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    sizes = [size_of_metrics(port) for _ in range(3)]
    over.set()
    watcher.join(10)
    assert min(sizes) > len(large)
    assert peak_kib - before_kib < 2048


@pytest.mark.parametrize("path", ["/quitquitquit", "/drain", "/restart", "/dns"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post"])
def test_what_changes_the_agent_wants_post(port: Port, path: str, method: str) -> None:
    assert get(port.port, path, method=method).status == 405
