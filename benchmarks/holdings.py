"""What an agent holds at one moment, process by process: memory, descriptors, threads, files, shared memory.

Envoy's own memory is Envoy's; it is told apart. Workers live for a moment each: they are counted and not
weighed, or each look would find another sum. Wants root: the processes that keep secrets are readable for
nobody else.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.tree_memory import memory_files

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_KIB: Final = os.sysconf("SC_PAGESIZE") // 1024
_PSS: Final = re.compile(rb"^(Pss|Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB", re.MULTILINE)
_ACTOR: Final = "pilot-agent: "
_ENVOY, _WORKER, _ZOMBIE = "(envoy)", "(worker)", "(zombie)"  # no role's name: "envoy" is an actor, too
_KEPT: Final = ("etc/istio/proxy", "var")  # below the agent's directory
_SHARED_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One long-lived process: the supervisor or an actor."""

    pid: int
    pss_kib: int
    own_kib: int  # what is no file's, in memory or swapped out: what other programs do not change
    descriptors: int
    threads: int


@dataclass(slots=True, kw_only=True)
class Holdings:
    """What one look found."""

    processes: dict[str, Process] = field(default_factory=dict)  # "supervisor" and roles
    memory_files_kib: int = 0  # memfds and what is open in /dev/shm
    workers: int = 0
    envoys: int = 0
    envoy_kib: int = 0  # resident
    zombies: int = 0
    shared_memory: int = 0  # objects in /dev/shm that belong to base ids of this agent
    files: int = 0  # on the disk, below the agent's directory
    cpu_s: float = 0.0  # of supervisor, actors and workers since the begin
    envoy_cpu_s: float = 0.0  # of the Envoys that live


def look(supervisor: int, directory: Path) -> Holdings:
    """Return what the agent with this supervisor, in this directory, holds now."""
    found, inodes = Holdings(), dict[int, int]()
    found.cpu_s = _cpu_s(supervisor, reaped=True)
    for pid, name in ((supervisor, "supervisor"), *_children(supervisor)):
        with contextlib.suppress(OSError):  # it has just ended
            _add(found, inodes, pid, name)
    found.memory_files_kib = sum(inodes.values()) // 1024
    found.shared_memory = _shared_memory(directory)
    found.files = sum(1 for kept in _KEPT for one in (directory / kept).rglob("*") if not one.is_dir())
    return found


def _add(found: Holdings, inodes: dict[int, int], pid: int, name: str) -> None:
    if name == _ZOMBIE:
        found.zombies += 1
    elif name == _ENVOY:
        found.envoys += 1
        found.envoy_kib += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KIB
        found.envoy_cpu_s += _cpu_s(pid)
    elif name == _WORKER:
        found.workers += 1
    else:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
        sizes = {key: int(size) for key, size in _PSS.findall(rollup)}
        found.processes[name] = Process(
            pid=pid,
            pss_kib=sizes[b"Pss"],
            own_kib=sizes[b"Pss_Anon"] + sizes[b"Pss_Shmem"] + sizes[b"SwapPss"],
            descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        )
        inodes |= dict(memory_files(pid))
        if name != "supervisor":
            found.cpu_s += _cpu_s(pid)


def _children(supervisor: int) -> Iterator[tuple[int, str]]:
    """Yield pid and name of each child; the supervisor alone forks, and from one thread."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for pid in map(int, children):
        with contextlib.suppress(OSError):
            yield pid, _name(pid)


def _name(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if not command:
        return _ZOMBIE
    if command.startswith(_ACTOR):
        return command.removeprefix(_ACTOR)
    return _ENVOY if Path(f"/proc/{pid}/comm").read_text().strip() == "envoy" else _WORKER


def _cpu_s(pid: int, *, reaped: bool = False) -> float:
    """Return the processor seconds of a process, with those of its ended children where wanted."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11 : 15 if reaped else 13])) / _TICKS
    return 0.0


def _shared_memory(directory: Path) -> int:
    """Return how many objects of Envoy's the agent's base ids have, the remembered ones and those in use."""
    with contextlib.suppress(OSError):
        ids = (directory / "etc/istio/proxy/hr-base-ids").read_text(encoding="ascii").split()
        return sum(1 for base in set(ids) for _ in _SHARED_MEMORY.glob(f"envoy_shared_memory_{base}0*"))
    return 0
