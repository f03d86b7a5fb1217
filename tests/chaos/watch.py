"""What is looked at all the time: which processes an agent has, and what it says of its readiness.

A look every few milliseconds, from /proc alone, so that times of death and birth are ours and not the
agent's.
"""

import contextlib
import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.agent import RealAgent

ENVOY: Final = "Envoy"
"""The process; the actor of that name is "envoy"."""

_LOOK_S: Final = 0.01
_ASK_S: Final = 0.05
_LOOK_AT_SECRETS_S: Final = 0.25


@dataclass(slots=True)
class Life:
    """One process of an agent; times are monotonic seconds, those of the look that saw it."""

    pid: int
    name: str  # an actor's role, or `ENVOY`
    born_s: float
    ended_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One question for readiness; `status` None: no answer."""

    port: int
    begin_s: float
    end_s: float
    status: int | None


@dataclass(slots=True)
class Watch:
    """Watches one agent from `__enter__` on; the lists only grow."""

    agent: RealAgent
    lives: list[Life] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    late: list[tuple[float, float]] = field(default_factory=list)  # when a look came, and how much too late
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        ports = (self.agent.ready_port, self.agent.status_port)
        self._threads = [threading.Thread(target=self._processes, daemon=True)]
        self._threads += [threading.Thread(target=self._ask, args=(port,), daemon=True) for port in ports]
        self._threads.append(threading.Thread(target=self._look_at_secrets, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def of(self, name: str) -> list[Life]:
        """Return the lives of this name, oldest first."""
        return [life for life in self.lives if life.name == name]

    def alive(self, name: str) -> list[Life]:
        return [life for life in self.of(name) if life.ended_s is None]

    def latest_s(self, since_s: float) -> float:
        """Return by how much a look was too late at most: this machine had no time for anybody then."""
        return max((late_s for at_s, late_s in self.late if at_s >= since_s), default=0.0)

    def lost_secrets(self, since_s: float) -> list[str]:
        """Return when an Envoy that was LIVE had no certificate."""
        return [f"an Envoy without a certificate at {at_s:.3f}" for at_s in self.losses if at_s >= since_s][
            :3
        ]

    def _look_at_secrets(self) -> None:
        while not self._over.wait(_LOOK_AT_SECRETS_S):
            with contextlib.suppress(OSError, ValueError):
                before = self._live_epoch()
                certificates = json.loads(self.agent.admin("/certs"))["certificates"]
                has_chain = any(entry.get("cert_chain") for entry in certificates)
                if not has_chain and before is not None and self._live_epoch() == before:
                    self.losses.append(time.monotonic())

    def _live_epoch(self) -> tuple[str, str] | None:
        """Return which Envoy has the admin port, if it is LIVE: its epoch and base id."""
        found = json.loads(self.agent.admin("/server_info"))
        options = found["command_line_options"]
        if found["state"] != "LIVE":
            return None
        return str(options["restart_epoch"]), str(options["base_id"])

    def _processes(self) -> None:
        known: dict[int, Life] = {}
        last_s = time.monotonic()
        while not self._over.wait(_LOOK_S):
            found = self._children()
            now_s = time.monotonic()
            if now_s - last_s > 5 * _LOOK_S:
                self.late.append((now_s, now_s - last_s))
            last_s = now_s
            for pid, life in list(known.items()):
                if pid not in found:
                    life.ended_s = now_s
                    del known[pid]
            for pid in found - known.keys():
                name = _name(pid)
                if name is None:  # on its way to its name, or a worker
                    continue
                known[pid] = Life(pid, name, now_s)
                self.lives.append(known[pid])

    def _children(self) -> set[int]:
        """Return the children of the supervisor that are no zombies."""
        process = self.agent.process
        if process is None:
            return set()
        try:
            text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        except OSError:
            return set()
        return {pid for pid in map(int, text.split()) if not _is_zombie(pid)}

    def _ask(self, port: int) -> None:
        while not self._over.wait(_ASK_S):
            begin_s = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            status: int | None = None
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/healthz/ready")
                status = connection.getresponse().status
            connection.close()
            self.answers.append(Answer(port, begin_s, time.monotonic(), status))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return True


def _name(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None
    if words.startswith("pilot-agent: "):
        return words.removeprefix("pilot-agent: ").strip()
    return ENVOY if comm == "envoy" else None
