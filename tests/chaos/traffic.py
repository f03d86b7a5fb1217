"""Steady clients, each kind counted apart, with when each failure began and ended.

The kinds are in `KINDS`. Each client does one thing after the other and never gives up: a failure is noted,
and the next attempt is a new connection.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

from tests.support.waiting import wait_for

KINDS: Final = ("http1-new", "http1-kept", "http2", "tcp-new", "tcp-kept", "dns", "wasm")
_PAUSE_S: Final = 0.02


class TrafficError(OSError):
    """An attempt was not answered, or not as it must be."""


class Client(Protocol):
    """One attempt at a time; it makes and keeps its connection by itself."""

    def once(self) -> None:
        """Ask and check the answer; raises OSError when that fails."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Times are monotonic seconds."""

    kind: str
    begin_s: float
    end_s: float
    text: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.begin_s:.3f} for {self.end_s - self.begin_s:.3f} s: {self.text}"


@dataclass(slots=True)
class Tally:
    """What one kind did."""

    good: int = 0
    last_good_s: float = 0.0  # when the newest good answer's question was asked
    slowest_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)


class Traffic:
    """Runs all clients from `__enter__` on."""

    def __init__(self, clients: Mapping[str, Callable[[], Client]]) -> None:
        self._make = clients
        self.tallies = {kind: Tally() for kind in clients}
        self._over = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._idle = {kind: threading.Event() for kind in clients}
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), daemon=True, name=f"traffic {kind}")
            for kind in clients
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._going.set()
        for thread in self._threads:
            thread.join(15)

    def failures(self, since_s: float) -> list[Failure]:
        """Return what failed and ended after this moment, oldest first."""
        found = [one for tally in self.tallies.values() for one in tally.failures if one.end_s >= since_s]
        return sorted(found, key=lambda one: one.begin_s)

    def good(self) -> int:
        return sum(tally.good for tally in self.tallies.values())

    def wait_good(self, kinds: Iterable[str] = KINDS, *, within_s: float = 20.0) -> None:
        """Return when something that was asked from now on was answered well, of each kind."""
        begin_s = time.monotonic()
        for kind in kinds:
            tally = self.tallies.get(kind)
            if tally is not None:
                wait_for(
                    lambda tally=tally: tally.last_good_s >= begin_s,  # type: ignore[misc]
                    within_s=within_s,
                    what=f"a good answer to {kind}",
                )

    def _run(self, kind: str) -> None:
        tally, client = self.tallies[kind], self._make[kind]()
        while not self._over.is_set():
            begin_s = time.monotonic()
            try:
                client.once()
                end_s = time.monotonic()
                tally.good += 1
                tally.last_good_s = begin_s
            except OSError as error:
                end_s = time.monotonic()
                tally.failures.append(Failure(kind, begin_s, end_s, f"{type(error).__name__}: {error}"))
                client.close()
            tally.slowest_s = max(tally.slowest_s, end_s - begin_s)
            self._over.wait(_PAUSE_S)
        client.close()
