"""How long an actor is missing after a SIGKILL, and whether Envoy or a client notices.

A sidecar's agent with a real Envoy, its application behind it, requests flowing on a connection that is
kept and on new ones. Each actor is killed again and again, UpstreamXdsActor ten times as often. Counted
from the kill:

    Ready   its successor says that it serves (the agent's log)
    whole   the xDS actors alone: istiod has a new stream on which everything is subscribed to that the one
            before had; UpstreamXdsActor's death shall cost Envoy nothing, so its counters are compared:
            no new connection, no new request, connected all the time, no attempt beside the responses

Caveats:
    - istiod is a process of its own, and says when it read each request; its Python's time counts. The
      applications, the load's clients and the clock share one process. All share the processors: on two, the
      slowest kills are those beside which the load and two Envoys had most to do.
    - Ready is the time of the line in the agent's log.
    - DownstreamXdsActor's death ends Envoy's stream: Envoy waits up to half a second before it comes again.
    - Two kills are 1.2 s apart: an actor that has lived for a second is started again at once, see
      `actors.runtime.backoff`; a crash loop is slowed down.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.istiod_apart import IstiodApart
from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from lab.bookinfo import Bookinfo
from tests.support.agent import ROLES, RealAgent
from tests.support.load import Load
from tests.support.waiting import wait_for
from tests.support.xds_counts import TOLD, stream_counts

_UPSTREAM: Final = "upstream-xds"
_XDS: Final = (_UPSTREAM, "downstream-xds")
_SELDOM: Final = 10
_APART_S: Final = 1.2
_AFTER_S: Final = 0.2
_READY: Final = r"^(\S+)Z\s.*actor {role} is ready again"
_PAUSE_S: Final = 0.02  # of each of the two clients, between its requests
_WITHIN_S: Final = 20.0


def run(kills: int = 100) -> Report:
    """Kill UpstreamXdsActor so many times, each other actor a tenth as often."""
    mesh = mesh_on_free_ports()
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        istiod = stack.enter_context(IstiodApart(mesh))
        stack.enter_context(Bookinfo(mesh))
        agent = stack.enter_context(agent_for(istiod, directory / "agent", proxy_config=TOLD))
        router = agent_for(istiod, directory / "router", role="router", account="istio-ingressgateway")
        for each in (agent, stack.enter_context(router)):
            each.wait_ready()
        load = stack.enter_context(Load(mesh.gateway.listen.port, "/productpage", pause_s=_PAUSE_S))
        victims = _Victims(agent, istiod)
        for role in sorted(ROLES, key=lambda role: role != _UPSTREAM):
            often = kills if role == _UPSTREAM else max(kills // _SELDOM, 1)
            before, failed = stream_counts(agent), len(load.failures)
            rows += _rows(role, [victims.kill(role) for _ in range(often)])
            load.wait_more()
            if role != "downstream-xds":
                rows.append(_count(f"{role}, Envoy's counters changed", before != stream_counts(agent)))
            rows.append(_count(f"{role}, failed requests", len(load.failures) - failed))
        sent = load.sent
    return Report(
        question=f"an actor killed under load, {kills} times {_UPSTREAM}",
        rows=tuple(rows),
        notes=(f"{sent} requests",),
    )


def _rows(role: str, kills: "list[tuple[float, float]]") -> Iterator[Row]:
    ready, whole = [one for one, _ in kills], [other for _, other in kills]
    yield Row(what=f"{role}, kill to Ready", unit="ms", value=Spread.of(ready))
    if role in _XDS:
        target = "≤ 100" if role == _UPSTREAM else ""
        yield Row(what=f"{role}, kill to whole", unit="ms", value=Spread.of(whole))
        yield Row(what=f"{role}, kill to whole, p99", unit="ms", value=Spread.of([p99(whole)]), target=target)


def _count(what: str, value: int) -> Row:
    return Row(what=what, unit="", value=Spread.of([int(value)]), target="0")


def p99(values: list[float]) -> float:
    """Return the value that at most one of a hundred exceeds."""
    return sorted(values)[max(-(-len(values) * 99 // 100) - 1, 0)]


class _Victims:
    """Kills actors of one agent."""

    def __init__(self, agent: RealAgent, istiod: IstiodApart) -> None:
        self._agent, self._istiod = agent, istiod
        self._log = agent.directory / "agent.log"
        self._subscribed = frozenset(self._sidecars(0.0))

    def kill(self, role: str) -> tuple[float, float]:
        """Return the ms until Ready and until whole; the second is 0 for actors without streams to istiod."""
        pid, offset = self._agent.actor_pid(role), self._log.stat().st_size
        self._sidecars(0.0)
        began_unix_s, began_s = time.time(), time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        whole_s = self._whole_s(began_s) if role in _XDS else began_s
        time.sleep(max(_APART_S - (time.perf_counter() - began_s), _AFTER_S))
        line = wait_for(
            lambda: re.search(_READY.format(role=role), _since(self._log, offset), re.MULTILINE),
            what=f"{role} Ready again",
        )
        ready_s = datetime.fromisoformat(line[1]).replace(tzinfo=UTC).timestamp() - began_unix_s
        return ready_s * 1e3, (whole_s - began_s) * 1e3

    def _whole_s(self, began_s: float) -> float:
        """Return when all was asked for again that had been asked for before, on the clock of `began_s`."""
        found: dict[str, float] = {}
        while missing := self._subscribed - found.keys():
            left_s = began_s + _WITHIN_S - time.perf_counter()
            if left_s <= 0:
                raise TimeoutError(f"not asked for again within {_WITHIN_S:g} s: {sorted(missing)}")
            found = self._sidecars(left_s) | found
        return max(found[type_url] for type_url in self._subscribed)

    def _sidecars(self, within_s: float) -> dict[str, float]:
        """Return when the sidecar asked for which type since the last call, waiting for the first so long."""
        return {
            one.type_url: one.at_s
            for one in self._istiod.asked(within_s)
            if one.node_id.startswith("sidecar") and not one.is_answer
        }


def _since(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")
