"""What happens in a soak: two agents, requests, pushes, rotations, hot restarts, and actors that are killed.

Both agents have a real Envoy, the same pushes, and requests that pass both. The *sidecar* is struck: every
half minute one of its actors is killed, the next one each time. The *gateway* is spared: its actors live
as long as the soak, so that theirs are the series in which growth shows.
"""

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.holdings import look
from benchmarks.rig import ACCOUNT, agent_for, mesh_on_free_ports
from benchmarks.soak.clients import Probes, Pushes, Requests
from benchmarks.soak.record import AgentSample, Happened, Latency, Sample, Writer
from lab.bookinfo import Bookinfo
from lab.istiod import Istiod
from tests.support.agent import ROLES, RealAgent
from tests.support.real_envoy import get
from tests.support.waiting import wait_for

_FAILURES: Final = {"pushes": "push not accepted", "probes": "probe not answered with 200"}
GATEWAY_ACCOUNT: Final = "istio-ingressgateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast time goes. All in seconds; 0 switches a thing off."""

    ttl_s: int  # of certificates
    rotation_s: int
    restart_s: int  # how long a hot restart takes, and so how often there is one while rotations want more
    push_s: float
    kill_s: float  # one actor of the sidecar each time
    request_s: float  # between two requests of one of the clients
    probe_s: float  # between two questions to a status port
    token_s: float

    def environment(self) -> dict[str, str]:
        return {
            "SECRET_TTL": f"{self.ttl_s}s",
            "SECRET_GRACE_PERIOD_RATIO": f"{1 - self.rotation_s / self.ttl_s:.4f}",
            "SECRET_GRACE_PERIOD_RATIO_JITTER": "0.02",
        }

    def proxy_config(self) -> dict[str, str]:
        return {
            "drainDuration": f"{self.restart_s * 3 // 4}s",
            "parentShutdownDuration": f"{self.restart_s}s",
        }


COMPRESSED: Final = Pace(
    ttl_s=30, rotation_s=5, restart_s=50, push_s=0.25, kill_s=30.0, request_s=0.05, probe_s=0.1, token_s=30.0
)
REAL: Final = Pace(
    ttl_s=3600,
    rotation_s=1800,
    restart_s=60,
    push_s=15.0,
    kill_s=0.0,
    request_s=0.2,
    probe_s=1.0,
    token_s=300.0,
)


@dataclass(slots=True, kw_only=True)
class World:
    """All that runs, entered."""

    istiod: Istiod
    agents: dict[str, RealAgent]
    requests: dict[str, Requests]
    probes: Probes
    pushes: Pushes
    writer: Writer
    began_s: float = field(default_factory=time.monotonic)
    _told: dict[str, int] = field(default_factory=dict)
    _roles: Iterator[str] = field(default_factory=lambda: itertools.cycle(ROLES))

    @property
    def at_s(self) -> float:
        return round(time.monotonic() - self.began_s, 3)

    def sample(self) -> None:
        """Look at everything once, and write it down; what failed since then as well."""
        clients = {**self.requests, "probes": self.probes, "pushes": self.pushes}
        for name, client in clients.items():
            failures = client.timings.failures
            for at_s, text in failures[self._told.get(name, 0) :]:
                what = _FAILURES.get(name, "request failed")
                self._note(what, detail=f"{name}: {text}", at_s=at_s - self.began_s)
            self._told[name] = len(failures)
        counts = tuple(self.istiod.observed.counts.items())
        self.writer.sample(
            Sample(
                at_s=self.at_s,
                agents={name: self._agent(name, agent) for name, agent in self.agents.items()},
                latencies={name: Latency.of(client.timings.take()) for name, client in clients.items()},
                failed=sum(len(one.timings.failures) for one in self.requests.values()),
                rejected=sum(count for (verdict, _), count in counts if verdict == "nack"),
                unaccepted=len(self.pushes.timings.failures),
                unanswered=len(self.probes.timings.failures),
                load=os.getloadavg()[0],
                own_cpu_s=round(time.process_time(), 2),
            )
        )

    def kill_the_next_actor(self) -> None:
        """SIGKILL, and how long until its successor lives."""
        role, agent = next(self._roles), self.agents["sidecar"]
        old, at_s = agent.actor_pid(role), self.at_s
        if role == "health":
            self.probes.strike()
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: agent.actor(role) not in (None, old), within_s=30, what=f"a new {role}")
        self._note("actor killed", agent="sidecar", detail=role, at_s=at_s, took_ms=(self.at_s - at_s) * 1e3)

    def renew_tokens(self) -> None:
        """As a kubelet does it."""
        for name, agent in self.agents.items():
            self.istiod.provision(agent.directory, "default", _account(name))

    def quit(self) -> None:
        """End both agents as a kubelet would, and write down how they ended."""
        for name, agent in self.agents.items():
            status = agent.quit(60.0)
            self._note("agent ended", agent=name, detail=f"exit status {status}")

    def trouble(self, text: str) -> None:
        """Write down what this program itself could not do."""
        self._note("trouble", detail=text)

    def _note(
        self, what: str, *, agent: str = "", detail: str = "", at_s: float | None = None, took_ms: float = 0.0
    ) -> None:
        at_s = round(self.at_s if at_s is None else at_s, 3)
        one = Happened(at_s=at_s, what=what, agent=agent, detail=detail, took_ms=round(took_ms, 1))
        self.writer.happened(one)

    def _agent(self, name: str, agent: RealAgent) -> AgentSample:
        assert agent.process is not None
        status = _status(agent)
        suffix = f"/sa/{_account(name)}"
        csrs = tuple(self.istiod.observed.csrs)
        return AgentSample(
            holdings=look(agent.process.pid, agent.directory),
            mailboxes={actor["name"]: actor["mailbox_depth"] for actor in status["actors"]},
            restarts=sum(actor["restarts"] for actor in status["actors"]),
            rotations=sum(one.outcome == "signed" and one.spiffe_id.endswith(suffix) for one in csrs),
            epoch=max((envoy["epoch"] for envoy in status["envoys"]), default=-1),
            log_bytes=(agent.directory / "agent.log").stat().st_size,
        )


def _status(agent: RealAgent) -> dict[str, Any]:  # Any: JSON
    """Return the status document; HealthActor, who serves it, may just have been killed."""

    def ask() -> dict[str, Any]:
        document: dict[str, Any] = json.loads(get(agent.status_port, "/status")[1])
        return document

    return wait_for(ask, within_s=20.0, what="the status page")


def _account(name: str) -> str:
    return ACCOUNT if name == "sidecar" else GATEWAY_ACCOUNT


@contextlib.contextmanager
def running(directory: Path, pace: Pace, writer: Writer) -> Iterator[World]:
    """Start everything, wait until both agents are ready, and yield it with its clients at work."""
    mesh = mesh_on_free_ports()
    with contextlib.ExitStack() as stack:
        istiod = stack.enter_context(Istiod(mesh))
        stack.enter_context(Bookinfo(mesh))
        agents = {
            name: agent_for(
                istiod,
                directory / name,
                role="sidecar" if name == "sidecar" else "router",
                account=_account(name),
                environment=pace.environment(),
                proxy_config=pace.proxy_config(),
            )
            for name in ("sidecar", "gateway")
        }
        for agent in agents.values():
            stack.enter_context(agent).wait_ready()
        port = mesh.gateway.listen.port
        requests = {
            "kept": Requests(port, "/productpage", kept=True, pause_s=pace.request_s),
            "new": Requests(port, "/api/v1/products", kept=False, pause_s=pace.request_s),
        }
        pushes = Pushes(istiod, mesh, pace.push_s)
        probes = Probes([agent.status_port for agent in agents.values()], pace.probe_s)
        for client in (*requests.values(), probes, pushes):
            stack.enter_context(client)
        yield World(
            istiod=istiod, agents=agents, requests=requests, probes=probes, pushes=pushes, writer=writer
        )


@dataclass(slots=True)
class _Due:
    next_s: float
    every_s: float
    act: Callable[[], None]


class Schedule:
    """Does things at their times, on one thread, so that no two of them meet by accident of this program."""

    def __init__(self, world: World, pace: Pace) -> None:
        self._world, self._ending = world, threading.Event()
        wanted = ((pace.kill_s, world.kill_the_next_actor), (pace.token_s, world.renew_tokens))
        self._due = [_Due(every_s, every_s, act) for every_s, act in wanted if every_s]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._ending.wait(0.2):
            for one in self._due:
                if self._world.at_s >= one.next_s:
                    one.next_s += one.every_s
                    self._do(one.act)

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (AssertionError, OSError) as error:
            self._world.trouble(f"{act.__name__}: {error}")
