"""How much memory a tree of processes holds, each page counted once.

As a program it samples until its standard input ends, and prints the peak: a process of its own, so that
a control plane that is busy with a big push cannot delay it.

    python -m benchmarks.tree_memory PID
"""

import array
import contextlib
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGESIZE")
_PRESENT: Final = 1 << 63
_FRAME: Final = (1 << 55) - 1
_INTERVAL_S: Final = 0.005
_ALL_EVERY_S: Final = 0.1
_BUSY: Final = ("pa-upstream-xds", "pa-downstream-x")  # as the kernel cuts them
_PSS: Final = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)
_FOREIGN: Final = "envoy"  # Envoy's own memory is Envoy's, and so are its files in /dev/shm


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeMemory:
    """All in bytes. `total` is what counts: PSS and the pages of files that lie in memory."""

    pss: dict[str, int]  # by the process's name
    files: int  # memfds and what is open in /dev/shm; a page that is mapped too counts twice

    @property
    def total(self) -> int:
        return sum(self.pss.values()) + self.files


def measure(supervisor: int) -> TreeMemory:
    """Return what the tree holds now. Processes of secrets are only readable for root."""
    pss: dict[str, int] = {}
    files: dict[int, int] = {}
    for pid in tree(supervisor):
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            pss[f"{name}:{pid}" if name in pss else name] = _pss(pid)
            files |= dict(memory_files(pid))
    return TreeMemory(pss=pss, files=sum(files.values()))


def alone(supervisor: int) -> int:
    """Return the bytes of all page frames that the tree maps, each once; wants root.

    It is the PSS sum that would be seen if nothing else on the machine used the same libraries.
    """
    frames: set[int] = set()
    for pid in tree(supervisor):
        with contextlib.suppress(OSError):
            frames |= set(_frames(pid))
    return len(frames) * _PAGE


def _again(supervisor: int, before: TreeMemory) -> TreeMemory:
    """Return what the tree holds, having looked at the processes of a push alone: 2 ms instead of 10."""
    pss = dict(before.pss)
    for pid in tree(supervisor):
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name in _BUSY:
                pss[name] = _pss(pid)
    return TreeMemory(pss=pss, files=before.files)


def tree(supervisor: int) -> list[int]:
    """Return the supervisor and its children, without Envoy. It alone forks, and from one thread."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [pid for pid in (supervisor, *map(int, children)) if _is_ours(pid)]


def _is_ours(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() != _FOREIGN
    except OSError:
        return False


def _pss(pid: int) -> int:
    found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    return int(found[1]) * 1024 if found else 0


def memory_files(pid: int) -> Iterator[tuple[int, int]]:
    """Yield inode and bytes in memory of what is open and lies in a tmpfs: memfds, /dev/shm."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(("/memfd:", "/dev/shm/")):
                found = link.stat()
                yield found.st_ino, found.st_blocks * 512


def _frames(pid: int) -> Iterator[int]:
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, _, last = line.split(maxsplit=1)[0].partition("-")
            start, end = int(first, 16) // _PAGE, int(last, 16) // _PAGE
            if start >= 1 << 48 or "[v" in line:  # the kernel's pages: vsyscall, vvar, vdso
                continue
            pagemap.seek(start * 8)
            entries = array.array("Q", pagemap.read((end - start) * 8))
            yield from (entry & _FRAME for entry in entries if entry & _PRESENT)


@contextmanager
def peak_of(pid: int) -> Iterator[dict[str, float]]:
    """Sample the tree while the block runs; what was seen is in the yielded dictionary afterwards."""
    found: dict[str, float] = {}
    sampler = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.tree_memory", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield found
    finally:
        output, _ = sampler.communicate(b"enough\n", timeout=30)
    found.update(json.loads(output))


def _sample_until_told(supervisor: int) -> dict[str, float]:
    """Look each 5 ms at the processes through which a push goes, each 100 ms at all."""
    last = peak = measure(supervisor)
    samples, started = 1, time.monotonic()
    next_s = all_s = started
    while not select.select([sys.stdin], [], [], max(next_s - time.monotonic(), 0.0))[0]:
        now_s = time.monotonic()
        next_s = max(next_s + _INTERVAL_S, now_s)
        if now_s >= all_s:
            last, all_s = measure(supervisor), now_s + _ALL_EVERY_S
        else:
            last = _again(supervisor, last)
        peak = max(peak, last, key=lambda one: one.total)
        samples += 1
    parts = {f"peak of {name}": size for name, size in peak.pss.items()}
    return {"peak": peak.total, "samples": samples, "seconds": time.monotonic() - started} | parts


if __name__ == "__main__":
    print(json.dumps(_sample_until_told(int(sys.argv[1]))))
