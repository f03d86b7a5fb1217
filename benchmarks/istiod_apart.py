"""The lab's istiod in a process of its own: what it does shares no interpreter with a benchmark's clock.

Each request that it gets comes back through a pipe with the time at which it was read
(`time.perf_counter`, one clock for all processes of a machine on Linux).
"""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.observed import Observed, RequestSeen

_WITHIN_S: Final = 20.0


class Asked(msgspec.Struct, frozen=True):
    """One request: when it was read, who asked for what, and whether it answers a response."""

    at_s: float
    node_id: str
    type_url: str
    is_answer: bool


class IstiodApart:
    """`with IstiodApart(mesh) as istiod`; to be used by one thread."""

    def __init__(self, mesh: Mesh) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads
        self._commands, theirs = context.Pipe()
        self._requests, told = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(mesh, theirs, told), daemon=True)
        self._theirs = theirs, told
        self._address = ""

    @property
    def address(self) -> str:
        return self._address

    def provision(self, directory: Path, namespace: str, service_account: str) -> None:
        """Write what a pod gets mounted, see `Istiod.provision`."""
        self._commands.send((str(directory), namespace, service_account))
        self._answered()

    def asked(self, within_s: float) -> Iterator[Asked]:
        """Yield what was asked for since the last call, waiting for the first for so long."""
        while self._requests.poll(within_s):
            yield from self._requests.recv()
            within_s = 0.0

    def __enter__(self) -> Self:
        self._process.start()
        for end in self._theirs:
            end.close()
        self._address = self._answered()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def _answered(self) -> str:
        if not self._commands.poll(_WITHIN_S):
            raise TimeoutError(f"no answer of the lab's istiod within {_WITHIN_S:g} s")
        return str(self._commands.recv())


def _serve(mesh: Mesh, commands: Connection, told: Connection) -> None:
    """Be the process: serve until the other end is gone."""
    with Istiod(mesh) as istiod:
        threading.Thread(target=_tell, args=(istiod.observed, told), daemon=True).start()
        commands.send(istiod.address)
        while True:
            try:
                directory, namespace, service_account = commands.recv()
            except EOFError:
                return
            istiod.provision(Path(directory), namespace, service_account)
            commands.send("")


def _tell(observed: Observed, told: Connection) -> None:
    """Tell each request as soon as it is there; what was told is forgotten."""
    while True:
        observed.wait_until(lambda seen: seen.requests, timeout_s=threading.TIMEOUT_MAX)
        now_s, new = time.perf_counter(), list[RequestSeen]()

        def take(seen: Observed, new: list[RequestSeen] = new) -> None:
            new.extend(seen.requests)
            seen.requests.clear()

        observed.note(take)
        told.send([Asked(now_s, one.node_id, one.type_url, bool(one.response_nonce)) for one in new])
