"""How long does a merged metrics page take beside Envoy's own, and what does it cost in memory?

    python -m benchmarks metrics            a page of some megabytes, from a real Envoy with many clusters

In turn: Envoy's own port for Prometheus, and the agent's status port, which asks that one and adds its own.

Caveats: one machine does all of it, so client, agent and Envoy share its cores; nobody compresses; the
memory is that of all of the agent's processes, sampled while pages are fetched.
"""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.memory import padded
from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from benchmarks.tree_memory import measure
from lab.istiod import Istiod
from lab.snapshot import CDS
from tests.support.waiting import wait_for

_CLUSTERS_BYTES = 500_000  # the 500 clusters themselves are small: their counters make the page
_EVERYTHING = {"proxyStatsMatcher": {"inclusionRegexps": [".*"]}}


def run(times: int = 9) -> Report:
    """Fetch each page so many times."""
    mesh = mesh_on_free_ports()
    with (
        short_directory() as directory,
        Istiod(mesh) as istiod,
        agent_for(istiod, directory / "agent", proxy_config=_EVERYTHING) as agent,
    ):
        agent.wait_ready()
        accepted = istiod.observed.acks(CDS)
        istiod.push(padded(mesh, _CLUSTERS_BYTES))
        istiod.observed.wait_until(lambda seen: seen.acks(CDS) > accepted, timeout_s=30)
        wait_for(lambda: _fetch(agent.status_port)[0] > 1_000_000, what="the merged page", within_s=30)
        assert agent.process is not None
        before = measure(agent.process.pid).total
        with _peak(agent.process.pid) as peak:
            pairs = [(_fetch(agent.stats_port), _fetch(agent.status_port)) for _ in range(times)]
    alone, merged = ([pair[at][1] * 1e3 for pair in pairs] for at in (0, 1))
    ratios = [other / one for one, other in zip(alone, merged, strict=True)]
    size_mb = pairs[-1][1][0] / 1e6
    return Report(
        question="metrics of agent and Envoy in one page",
        rows=(
            Row(what="Envoy's own page", unit="ms", value=Spread.of(alone)),
            Row(what="merged page", unit="ms", value=Spread.of(merged)),
            Row(what="merged / Envoy's own", unit="ratio", value=Spread.of(ratios), target="≤ 1.5"),
            Row(what="memory more, at the peak", unit="MB", value=Spread.of([(peak["peak"] - before) / 1e6])),
        ),
        notes=(f"a page of {size_mb:.1f} MB",),
    )


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[dict[str, float]]:
    """Have a process of its own look while the block runs; what was seen is there afterwards."""
    found: dict[str, float] = {}
    words = [sys.executable, "-m", "benchmarks.tree_memory", str(pid)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sampler:
        try:
            yield found
        finally:
            found.update(json.loads(sampler.communicate(b"enough\n", timeout=30)[0]))


def _fetch(port: int) -> tuple[int, float]:
    """Return how many bytes the page has and how many seconds it took; 0 bytes while nobody answers."""
    began_s, size = time.perf_counter(), 0
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(
            b"GET /stats/prometheus HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
        )
        while data := client.recv(1 << 20):
            size += len(data)
    return size, time.perf_counter() - began_s
