"""What uses the mesh while it is watched: paced requests and pushes, each with how long it took."""

import http.client
import itertools
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.snapshot import RDS

_REQUEST_LIMIT_S: Final = 10.0
_PUSH_LIMIT_S: Final = 15.0
_CUT_WITHIN_S: Final = 1.0  # of a kill
_PROBES: Final = (*["/healthz/ready"] * 10, *["/status"] * 4, "/stats/prometheus")
_SPLITS: Final[tuple[Mapping[str, int], ...]] = ({"v1": 50, "v3": 50}, {"v2": 100})


@dataclass(slots=True)
class Timings:
    """What came since it was last taken, and all failures with the second they happened at (monotonic)."""

    took_ms: list[float] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    total: int = 0

    def add(self, began_s: float) -> None:
        self.took_ms.append((time.monotonic() - began_s) * 1e3)
        self.total += 1

    def fail(self, text: str) -> None:
        self.failures.append((time.monotonic(), text))
        self.total += 1

    def take(self) -> list[float]:
        taken, self.took_ms = self.took_ms, []
        return taken


class _Client:
    """Does one thing again and again on a thread of its own, until it is left."""

    def __init__(self, pause_s: float) -> None:
        self.timings = Timings()
        self._pause_s, self._ending = pause_s, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(20)

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._ending.wait(max(0.0, next_s - time.monotonic())):
            next_s = max(next_s + self._pause_s, time.monotonic())
            self.once()

    def once(self) -> None:
        raise NotImplementedError


class Requests(_Client):
    """GETs one after the other: over a connection that is kept as long as Envoy likes, or over new ones."""

    def __init__(self, port: int, path: str, *, kept: bool, pause_s: float) -> None:
        super().__init__(pause_s)
        self._port, self._path, self._kept = port, path, kept
        self._connection: http.client.HTTPConnection | None = None

    def once(self) -> None:
        began_s = time.monotonic()
        connection = self._connection or http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=_REQUEST_LIMIT_S
        )
        self._connection = connection
        try:
            connection.request("GET", self._path)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.timings.fail(f"{self._path}: {type(error).__name__}: {error}")
            self._close()
            return
        if response.status != http.client.OK:
            said = text[:200].decode(errors="replace")
            self.timings.fail(f"{self._path}: status {response.status}: {said}")
        else:
            self.timings.add(began_s)
        if not self._kept or response.will_close:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Probes(_Client):
    """What a kubelet, a scraper and a person ask the status ports, in turn, over new connections.

    They are as many as in hours: only so are the allocators' arenas full before the growth is judged. A
    connection that HealthActor held when it was killed is cut by that; such a probe is asked once more.
    """

    def __init__(self, ports: Sequence[int], pause_s: float) -> None:
        super().__init__(pause_s)
        self._wanted = itertools.cycle([(port, path) for path in _PROBES for port in ports])
        self._struck_s = -math.inf

    def strike(self) -> None:
        """Say that HealthActor is killed now."""
        self._struck_s = time.monotonic()

    def once(self) -> None:
        (port, path), began_s = next(self._wanted), time.monotonic()
        try:
            try:
                status, text = _asked(port, path)
            except ConnectionError:
                if time.monotonic() - self._struck_s > _CUT_WITHIN_S:
                    raise
                status, text = _asked(port, path)
        except (OSError, http.client.HTTPException) as error:
            self.timings.fail(f"{path}: {type(error).__name__}: {error}")
            return
        if status == http.client.OK:
            self.timings.add(began_s)
        else:
            self.timings.fail(f"{path}: status {status}: {text[:200].decode(errors='replace')}")


def _asked(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_LIMIT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Pushes(_Client):
    """Another split of reviews each time; measured until the first Envoy has accepted it."""

    def __init__(self, istiod: Istiod, mesh: Mesh, pause_s: float) -> None:
        super().__init__(pause_s)
        self._istiod, self._number = istiod, 0
        self._worlds = [mesh.with_split("reviews", split) for split in _SPLITS]

    def once(self) -> None:
        self._number += 1
        seen = self._istiod.observed
        accepted, began_s = seen.acks(RDS), time.monotonic()
        self._istiod.push(self._worlds[self._number % len(self._worlds)])
        try:
            seen.wait_until(lambda seen: seen.acks(RDS) > accepted, timeout_s=_PUSH_LIMIT_S)
        except TimeoutError as error:
            self.timings.fail(f"a push was not accepted: {error}")
            return
        self.timings.add(began_s)
