"""How long does a merged metrics page take beside Envoy's own, and what does it cost in memory?

    python -m benchmarks.metrics            a page of 10 MB or more, from a real Envoy with many clusters

Caveats: one machine does all of it, so client, agent and Envoy share its cores; the status server runs in a
process of its own without actors; nobody compresses.
"""

import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.support.real_envoy import RealEnvoy, free_ports
from tests.support.waiting import wait_for

_CLUSTERS = 700
_ROUNDS = 9
_SERVER = """
import socket, sys
from pilot_agent.status.counters import Counters
from pilot_agent.status.options import StatusOptions
from pilot_agent.status.pages import Pages
from pilot_agent.status.server import StatusServer

class Backend:
    def not_ready_because(self): return None
    def samples(self): return []
    def command(self, verb): ...
    def command_line(self): return b""
    def name_table(self): return b""
    def start_dns(self): ...

options = StatusOptions(envoy_prometheus_port=int(sys.argv[1]))
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
StatusServer(listener, Pages(options, Backend(), Counters({}), lambda: None).answer).serve()
"""


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _bootstrap(admin_port: int) -> dict[str, object]:
    def cluster(number: int) -> dict[str, object]:
        endpoint = {"endpoint": {"address": _address(1)}}
        return {
            "name": f"outbound|9080||service-{number}.default.svc.cluster.local",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }

    return {
        "node": {"id": "n", "cluster": "c"},
        "admin": {"address": _address(admin_port)},
        "static_resources": {"clusters": [cluster(number) for number in range(_CLUSTERS)]},
    }


def _fetch(port: int) -> tuple[int, float]:
    """Return how many bytes the page has and how many seconds it took."""
    began_s, size = time.perf_counter(), 0
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            b"GET /stats/prometheus HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
        )
        while data := client.recv(1 << 20):
            size += len(data)
    return size, time.perf_counter() - began_s


def _pss_kib(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def main() -> int:
    admin_port, status_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="pa-") as folder, RealEnvoy(Path(folder), _bootstrap(admin_port)):
        server = subprocess.Popen([sys.executable, "-c", _SERVER, str(admin_port), str(status_port)])
        try:
            wait_for(lambda: _fetch(status_port)[0] > 1_000_000, what="the merged page", within_s=30)
            _measure(admin_port, status_port, server.pid)
        finally:
            server.kill()
            server.wait(10)
    return 0


def _measure(admin_port: int, status_port: int, pid: int) -> None:
    before_kib, peak_kib = _pss_kib(pid), 0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak_kib
        while not over.wait(0.01):
            peak_kib = max(peak_kib, _pss_kib(pid))

    watcher = threading.Thread(target=watch)
    rounds = [(_fetch(admin_port), _fetch(status_port)) for _ in range(_ROUNDS)]
    watcher.start()
    for _ in range(3):
        _fetch(status_port)
    over.set()
    watcher.join()
    direct_s, merged_s = (statistics.median(each[at][1] for each in rounds) for at in (0, 1))
    report = {
        "page_mb": round(rounds[0][0][0] / 1e6, 1),
        "direct_ms": round(direct_s * 1000),
        "merged_ms": round(merged_s * 1000),
        "ratio": round(merged_s / direct_s, 2),
        "pss_growth_kib": peak_kib - before_kib,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
