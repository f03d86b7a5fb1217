"""What Envoy and its clients notice of live upgrades: 500 requests a second while the agent is replaced.

Two real agents with their Envoys, a gateway and, behind mTLS, the sidecar that is upgraded again and again,
to and fro between two copies of the agent. The application is a listener of the sidecar's own Envoy, so that
it does not limit the rate. Envoy is asked every 10 ms which streams it has: of ADS, by the gauge
`control_plane.connected_state`; of SDS, by the streams of the cluster that the agent's socket is.

Caveats:
    - Load generator, control plane, agents and Envoys share the processors.
    - A gap that is shorter than two looks is not seen; the counts of streams opened have it all the same.
    - Latencies of kept connections have the pause of `wrk` between two requests in them.
"""

import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Final, Self

from benchmarks.native_load import NativeLoad, Sample
from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, answering_listener, mesh_on_free_ports, short_directory
from lab.istiod import Istiod
from lab.mesh import Mesh
from tests.support.agent import RealAgent
from tests.support.versions import make_version

_QUIET_S: Final = 3.0
_RATE: Final = 200  # requests a second of each of the three kinds
_LOOK_S: Final = 0.01
_SETTLED_S: Final = 1.0
_STATISTICS: Final = ("control_plane", "cluster.sds-grpc", "sds", "cluster.inbound")  # beside those of Istio
_GAUGES: Final = "^control_plane.connected_state$|^cluster.sds-grpc.*streams_active$"
_COUNTERS: Final = (
    "^cluster.(xds|sds)-grpc..*upstream_rq_total$|update_(failure|rejected)$|init_fetch_timeout$"
    "|^cluster_manager.cds.update_attempt$|^sds.default.update_attempt$"
)


def run(upgrades: int = 20) -> Report:
    """Do so many upgrades, one after the other."""
    mesh = mesh_on_free_ports()
    with (
        short_directory() as directory,
        Istiod(mesh) as istiod,
        _sidecar(istiod, directory / "sidecar", mesh) as sidecar,
        agent_for(istiod, directory / "router", role="router", account="istio-ingressgateway") as router,
    ):
        programs = [make_version(directory / name, name) for name in ("2.0", "3.0")]
        sidecar.wait_ready()
        router.wait_ready()
        (envoy,) = sidecar.envoys()
        url = f"http://127.0.0.1:{mesh.gateway.listen.port}/productpage"
        before = sidecar.stats(_COUNTERS)
        took: list[float] = []
        with _Watch(sidecar) as watch, NativeLoad(directory, url, rate=_RATE) as load:
            time.sleep(_QUIET_S)
            began_s = time.monotonic()
            for program in islice(cycle(programs), upgrades):
                took.append(_upgraded(sidecar, program))
                time.sleep(_SETTLED_S)
            lasted_s = time.monotonic() - began_s
        assert sidecar.envoys() == [envoy], "Envoy is another process"
        after = sidecar.stats(_COUNTERS)
        return _report(
            took, lasted_s, load, watch, {name: after[name] - before.get(name, 0) for name in after}
        )


def _sidecar(istiod: Istiod, directory: Path, mesh: Mesh) -> RealAgent:
    directory.mkdir(parents=True)
    (page,) = [service for service in mesh.services if service.name == "productpage"]
    listeners = [
        answering_listener(f"application-{workload.version}", workload.application.port)
        for workload in page.workloads
    ]
    (directory / "override.json").write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    return agent_for(
        istiod,
        directory,
        environment={"ISTIO_BOOTSTRAP_OVERRIDE": "override.json"},
        proxy_config={"proxyStatsMatcher": {"inclusionPrefixes": list(_STATISTICS)}},
    )


def _upgraded(agent: RealAgent, program: Path) -> float:
    """Upgrade once; return how long it took, in seconds."""
    began_s = time.monotonic()
    done = subprocess.run(
        [str(program), "upgrade", "--timeoutSeconds=60"],
        cwd=agent.directory,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began_s


@dataclass(slots=True)
class _Gap:
    """One kind of stream: how long each time was in which Envoy had fewer of them than at first."""

    whole: int = -1
    since_s: float = 0.0
    lasted_s: list[float] = field(default_factory=list)

    def saw(self, count: int, now_s: float) -> None:
        if self.whole < 0:
            self.whole = count
        if count < self.whole and not self.since_s:
            self.since_s = now_s
        elif count >= self.whole and self.since_s:
            self.lasted_s.append(now_s - self.since_s)
            self.since_s = 0.0


class _Watch:
    """Looks at Envoy's own statistics all the time."""

    def __init__(self, agent: RealAgent) -> None:
        self._agent = agent
        self.ads, self.sds = _Gap(), _Gap()
        self.looks = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._ending.wait(_LOOK_S):
            with contextlib.suppress(OSError):
                gauges, now_s = self._agent.stats(_GAUGES), time.monotonic()
                self.ads.saw(gauges["control_plane.connected_state"], now_s)
                self.sds.saw(sum(n for name, n in gauges.items() if "sds-grpc" in name), now_s)
                self.looks += 1


def _report(
    took: list[float], lasted_s: float, load: NativeLoad, watch: _Watch, counted: dict[str, int]
) -> Report:
    answered, lost = (sum(getattr(kind, name) for kind in load.kinds) for name in ("requests", "lost"))
    seconds = lasted_s + _QUIET_S
    rows = [
        _row("one upgrade", "s", took),
        _row("requests answered", "", [answered]),
        _row("… a second", "", [answered / seconds], "≥ 500"),
        _row("requests failed", "", [lost], "0"),
        *(_row(f"slowest, {kind.name}", "ms", [_slowest(kind.samples)]) for kind in load.kinds),
        *_gaps("ADS", watch.ads),
        *_gaps("SDS", watch.sds),
        _row("looks at Envoy's statistics", "", [watch.looks]),
        *(_row(name, "", [value]) for name, value in _interesting(counted)),
    ]
    return Report(question=f"{len(took)} live upgrades under 500 requests a second", rows=tuple(rows))


def _gaps(name: str, gap: _Gap) -> Iterator[Row]:
    yield _row(f"{name}: gaps that Envoy saw", "", [len(gap.lasted_s)])
    if gap.lasted_s:
        yield _row(f"{name}: one of them", "ms", [1e3 * each for each in gap.lasted_s])


def _interesting(counted: dict[str, int]) -> Iterator[tuple[str, float]]:
    """Return what Envoy has counted meanwhile; what did not move and is not asked for is left out."""
    for name, value in sorted(counted.items()):
        if value or re.search("failure|rejected|timeout", name) is None:
            yield name, float(value)


def _slowest(samples: list[Sample]) -> float:
    return max((one.took_ms for one in samples), default=0.0)


def _row(what: str, unit: str, values: list[float], target: str = "") -> Row:
    return Row(what=what, unit=unit, value=Spread.of(values), target=target)
