"""Steady requests while something happens: keep-alive and new connections, every failure kept."""

import http.client
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_for


@dataclass(slots=True)
class Tally:
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Load:
    """`with Load(port, "/productpage") as load: ...; assert load.failures == []`."""

    def __init__(
        self, port: int, path: str, *, keep_alive: int = 1, new_connections: int = 1, pause_s: float = 0.005
    ) -> None:
        self._port, self._path, self._pause_s = port, path, pause_s
        self._ending = threading.Event()
        self._tallies = [Tally() for _ in range(keep_alive + new_connections)]
        self._threads = [
            threading.Thread(target=self._run, args=(tally, number < keep_alive), daemon=True)
            for number, tally in enumerate(self._tallies)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(15)

    def wait_more(self, count: int = 50, *, within_s: float = 10.0) -> None:
        """Return when so many more requests were answered."""
        wanted = self.sent + count
        wait_for(lambda: self.sent >= wanted, within_s=within_s, what=f"{count} more requests")

    @property
    def sent(self) -> int:
        return sum(tally.sent for tally in self._tallies)

    @property
    def failures(self) -> list[str]:
        return [failure for tally in self._tallies for failure in tally.failures]

    @property
    def slowest_s(self) -> float:
        return max(tally.slowest_s for tally in self._tallies)

    def _run(self, tally: Tally, keep_alive: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._ending.is_set():
            begin_s = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
                connection.request("GET", self._path)
                response = connection.getresponse()
                response.read()
                tally.sent += 1
                if response.status != 200:
                    tally.failures.append(f"{time.monotonic():.3f}: status {response.status}")
                if not keep_alive or response.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                tally.sent += 1
                tally.failures.append(f"{time.monotonic():.3f}: {type(error).__name__}: {error}")
                if connection is not None:
                    connection.close()
                connection = None
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - begin_s)
            self._ending.wait(self._pause_s)
        if connection is not None:
            connection.close()
