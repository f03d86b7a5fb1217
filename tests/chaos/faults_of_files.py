"""Disks full and read-only, directories removed, sockets deleted, /dev/shm full."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.chaos.faults import NOTHING, PHASES, Fault, Strike, add, fault
from tests.chaos.phases import hot_restart
from tests.support import namespaces

_WASM: Final = frozenset({"wasm"})
"""With the disk of the modules gone a pushed module cannot be kept; its filter then lets nobody pass."""

_SHM: Final = Path("/dev/shm")
_CONFIG, _IDENTITY, _MODULES = "etc/istio/proxy", "var/run/secrets/workload-spiffe-uds", "var/lib/istio"
_SOCKETS: Final = (f"{_CONFIG}/XDS", f"{_IDENTITY}/socket")
_RUNNING: Final = frozenset(PHASES) - {"start"}


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Leave no byte in the file system of this folder."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    try:
        yield
    finally:
        ballast.unlink(missing_ok=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make the mount of this folder read-only (not possible while somebody holds a file open to write)."""
    flags = namespaces.NO_SUID | namespaces.NO_DEV | namespaces.REMOUNT | namespaces.BIND
    namespaces.mount("", folder, flags=flags | namespaces.READ_ONLY)
    try:
        yield
    finally:
        namespaces.mount("", folder, flags=flags)


def _disk(what: Any, place: str) -> Any:
    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        with what(strike.agent.directory / place):
            yield

    return way


for _place, _cuts in (("etc", NOTHING), ("var", _WASM)):
    for _name, _what in (("full", filled), ("read-only", read_only)):
        add(
            Fault(
                name=f"disk {_name}: {_place}",
                way=_disk(_what, _place),
                lasts_s=(1.0, 6.0),
                cuts=_cuts,
                wants_mounts=True,
                may_end=True,
                heals_within_s=45.0,
            )
        )


def _with_a_hot_restart(what: Any) -> Any:
    """Ask for a hot restart while nothing can be written where its bootstrap stands."""

    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        with what(strike.agent.directory / "etc"):
            hot_restart(strike)
            yield

    return way


for _name, _what, _told in (
    ("full", filled, "No space left on device"),
    ("read-only", read_only, "Read-only file system"),
):
    add(
        Fault(
            name=f"disk {_name}: etc before a hot restart",
            way=_with_a_hot_restart(_what),
            lasts_s=(9.0, 11.0),  # one that is under way ends first
            cuts=frozenset({"tcp-kept"}),
            variants=frozenset({"hot-restart", "files"}),
            phases=frozenset({"steady", "push"}),
            wants_mounts=True,
            heals_within_s=45.0,
            told=_told,
        )
    )


@fault("/dev/shm full", lasts_s=(1.0, 6.0), wants_mounts=True, heals_within_s=60.0, may_end=True,
       told=r"/dev/shm|shared memory|hot restart", told_in=frozenset({"hot restart"}))  # fmt: skip
def shm_full(strike: Strike) -> Iterator[None]:
    with filled(_SHM):
        yield


@fault("/dev/shm read-only", lasts_s=(1.0, 6.0), wants_mounts=True, heals_within_s=60.0, may_end=True)
def shm_read_only(strike: Strike) -> Iterator[None]:
    """Cover it: what an Envoy has there cannot be made read-only under it."""
    namespaces.memory_on(_SHM, mode="1777")
    try:
        with read_only(_SHM):
            yield
    finally:
        namespaces.unmount(_SHM)


def _removed(place: str) -> Any:
    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        shutil.rmtree(strike.agent.directory / place, ignore_errors=True)
        yield

    return way


for _place in (_CONFIG, _IDENTITY, _MODULES):
    add(
        Fault(
            name=f"directory removed: {_place}",
            way=_removed(_place),
            lasts_s=(0.5, 3.0),
            wants_mounts=True,
            cuts=_WASM if _place == _MODULES else NOTHING,
            phases=_RUNNING,
            aborts=_place == _CONFIG,
            heals_within_s=45.0,
        )
    )


@fault("sockets deleted", lasts_s=(0.5, 3.0), phases=_RUNNING, heals_within_s=45.0)
def sockets_deleted(strike: Strike) -> Iterator[None]:
    for each in _SOCKETS:
        with contextlib.suppress(FileNotFoundError):
            (strike.agent.directory / each).unlink()
    yield


@fault("hot restart's files deleted", phases=_RUNNING, heals_within_s=60.0, aborts=True)
def restart_files_deleted(strike: Strike) -> Iterator[None]:
    """Envoy's own sockets, the base ids and the bootstrap of the running Envoy."""
    folder = strike.agent.directory / _CONFIG
    for each in (*folder.glob("hr*"), *folder.glob("envoy-rev*")):
        with contextlib.suppress(OSError):
            each.unlink()
    yield
