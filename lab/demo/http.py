"""One HTTP request at a time, and a load of them."""

import http.client
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


def get(port: int, path: str, connection: http.client.HTTPConnection | None = None) -> Answer:
    """Ask a loopback port, on a new connection unless one is given.

    Raises:
        OSError: no whole answer came.
    """
    used = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        used.request("GET", path)
        response = used.getresponse()
        headers = {key.lower(): value for key, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        if connection is None:
            used.close()


@dataclass(slots=True)
class Tally:
    sent: int = 0
    failures: list[str] = field(default_factory=list)


class Load:
    """Steady requests to one path: half of the threads keep their connection, half open one each time.

    Anything but a whole answer with status 200 is a failure; nothing is tried twice.
    """

    def __init__(self, port: int, path: str, *, threads: int = 4, per_second: float = 25.0) -> None:
        self._port, self._path, self._pause_s = port, path, 1.0 / per_second
        self._tally, self._lock, self._end = Tally(), threading.Lock(), threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,), daemon=True)
            for number in range(threads)
        ]

    def seen(self) -> Tally:
        """Return what has come so far."""
        with self._lock:
            return Tally(self._tally.sent, list(self._tally.failures))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S + 1)

    def _run(self, keeps: bool) -> None:
        kept = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S) if keeps else None
        due_s = time.monotonic()
        while not self._end.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + self._pause_s, time.monotonic() - 1.0)
            self._count(self._once(kept))
        if kept is not None:
            kept.close()

    def _once(self, kept: http.client.HTTPConnection | None) -> str:
        """Return why one request failed, empty if it did not."""
        try:
            answer = get(self._port, self._path, kept)
        except OSError as error:
            if kept is not None:
                kept.close()  # the next request opens it anew
            return f"{type(error).__name__}: {error}"
        flags = answer.headers.get("x-envoy-overloaded", "")
        return "" if answer.status == 200 else f"status {answer.status} {flags} {answer.body[:100]!r}"

    def _count(self, failure: str) -> None:
        with self._lock:
            self._tally.sent += 1
            if failure:
                self._tally.failures.append(failure)
