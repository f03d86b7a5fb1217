"""Requests of native load generators: `wrk` and `h2load`, which leave the machine to what is measured.

    with NativeLoad(directory, "http://127.0.0.1:8080/", rate=300) as load: ...
    sum(kind.lost for kind in load.kinds)

A third each goes over kept HTTP/1.1 connections (`wrk`), over HTTP/2, and over HTTP/1.1 connections for one
request each (`h2load`). The generators are started anew each second, so no connection is older than that.
"""

import re
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

_CLIENTS: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of one moment: one of h2load's, or a second's worth of wrk's, of which the 99th percentile."""

    at_s: float  # Unix time
    took_ms: float


@dataclass(slots=True)
class Kind:
    """One kind of requests: what it is sent with, and what came of it."""

    name: str
    command: list[str]
    requests: int = 0
    lost: int = 0  # begun and not answered with 200
    samples: list[Sample] = field(default_factory=list)

    def run_once(self) -> None:
        raise NotImplementedError


class _H2load(Kind):
    def run_once(self) -> None:
        """Send a second's worth; the log has one line a request: begin in µs, status, duration in µs."""
        with tempfile.NamedTemporaryFile("r", encoding="ascii") as log:
            command = [*self.command[:-1], f"--log-file={log.name}", self.command[-1]]
            told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
            for line in log:
                at, _, took = line.split("\t")
                self.samples.append(Sample(int(at) / 1e6, int(took) / 1e3))
        found = re.search(r"^requests: \d+ total, (\d+) started, .* (\d+) succeeded", told, re.MULTILINE)
        assert found, f"unexpected words of h2load: {told[-500:]}"
        self.requests += int(found[2])
        self.lost += int(found[1]) - int(found[2])  # what it did not begin on a closed connection is not lost


class _Wrk(Kind):
    def run_once(self) -> None:
        """Send a second's worth; it opens a connection anew when a drained Envoy has closed it in order."""
        began_s = time.time()
        told = subprocess.run(self.command, capture_output=True, text=True, timeout=30, check=True).stdout
        found = re.search(r"99%\s+([\d.]+)(us|ms|s)\s+(\d+) requests in", told)
        assert found, f"unexpected words of wrk: {told[-500:]}"
        self.samples.append(Sample(began_s, float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]))
        self.requests += int(found[3])
        for errors in re.findall(r"(?:connect|read|write|timeout|responses:?) (\d+)", told):
            self.lost += int(errors)


class NativeLoad:
    """Three load generators, each started anew every second."""

    def __init__(self, directory: Path, url: str, *, rate: int) -> None:
        """Ask `url`, `rate` times a second with each of the three."""
        h2load, wrk = _tool("h2load", "nghttp2-client"), _tool("wrk", "wrk")
        script = directory / "pause.lua"
        script.write_text(f"function delay() return {1000 * _CLIENTS // rate} end\n", encoding="ascii")
        amount = ["-n", str(rate)]
        fresh = ["--h1", *amount, "-c", str(rate), "-r", str(rate // 10), "--rate-period=100ms"]
        paced = ["-c", str(_CLIENTS), f"--rps={rate // _CLIENTS}"]
        kept = ["-t1", f"-c{_CLIENTS}", "-d1s", "--latency", "-s", str(script)]
        self.kinds: tuple[Kind, ...] = (
            _Wrk("HTTP/1.1, kept", [wrk, *kept, url]),
            _H2load("HTTP/2", [h2load, *amount, *paced, url]),
            _H2load("HTTP/1.1, new connections", [h2load, *fresh, url]),
        )
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kind,), daemon=True) for kind in self.kinds]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, kind: Kind) -> None:
        while not self._ending.is_set():
            next_s = time.monotonic() + 1.0
            kind.run_once()
            self._ending.wait(max(next_s - time.monotonic(), 0.0))


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not on PATH (Debian: {package})"
    return found
