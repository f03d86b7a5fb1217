"""Whether the container has room for a second Envoy while the first one still serves.

The kernel kills without asking: an old epoch and a new one that together pass the limit of their cgroup
end as no Envoy at all. What counts against the limit is the working set, usage less the file pages that
the kernel would drop first; that is also how a kubelet counts.
Source: the memory controller's files in the kernel's documentation of cgroup v1 and v2.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

_MARGIN_BYTES: Final = 16 << 20
_MARGIN_SHARE: Final = 0.1  # of what the running Envoy has: the new one may have more to hold
_NO_LIMIT_BYTES: Final = 1 << 60  # v1 says so with a number near 2**63
_PRIVATE: Final = ("RssAnon:", "RssShmem:")  # file pages are charged to whoever read them first


class Group(msgspec.Struct, frozen=True):
    """One cgroup that has a limit."""

    path: str
    limit_bytes: int
    working_set_bytes: int

    @property
    def free_bytes(self) -> int:
        """Return what may be added before the kernel kills."""
        return self.limit_bytes - self.working_set_bytes


def refusal(envoy_pid: int, root: Path = Path("/")) -> str:
    """Return why no second Envoy is to be started beside this one; empty if it may be.

    What cannot be read refuses nothing: a machine without cgroups has no limit to pass.
    """
    tightest = min(groups(root), key=lambda group: group.free_bytes, default=None)
    if tightest is None:
        return ""
    needed = needed_bytes(private_bytes(root / "proc" / str(envoy_pid) / "status"))
    if needed <= tightest.free_bytes:
        return ""
    return (
        f"not enough memory for a second Envoy: needed {_mib(needed)}, free {_mib(tightest.free_bytes)} "
        f"(limit {_mib(tightest.limit_bytes)}, working set {_mib(tightest.working_set_bytes)}, "
        f"cgroup {tightest.path})"
    )


def needed_bytes(envoy_bytes: int) -> int:
    """Return what a new epoch may take: as much as the running one, and a margin."""
    return envoy_bytes + max(_MARGIN_BYTES, int(envoy_bytes * _MARGIN_SHARE))


def private_bytes(status: Path) -> int:
    """Return a process's memory without pages of files, 0 if that cannot be read."""
    lines = _lines(status)
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_PRIVATE))


class _Files(msgspec.Struct, frozen=True):
    """What a version of the memory controller calls its files."""

    limit: str
    usage: str
    inactive: str  # the line of memory.stat


_V1: Final = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2: Final = _Files("memory.max", "memory.current", "inactive_file")


def groups(root: Path = Path("/")) -> Iterator[Group]:
    """Yield every cgroup with a memory limit that this process is in: its own and those above it.

    `root` is the root of the file system, another one in tests.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield from _of_hierarchy(root / "sys/fs/cgroup/memory", path, _V1)
        elif not controllers:
            yield from _of_hierarchy(root / "sys/fs/cgroup", path, _V2)
            yield from _of_hierarchy(root / "sys/fs/cgroup/unified", path, _V2)


def _of_hierarchy(mounted: Path, path: str, files: _Files) -> Iterator[Group]:
    """Yield the groups from `path` upwards; in a container the mount's root is often the own group."""
    inner = PurePosixPath(path.lstrip("/"))
    for part in (inner, *inner.parents):
        if (found := _group(mounted / part, files)) is not None:
            yield found


def _group(folder: Path, files: _Files) -> Group | None:
    limit, usage = _number(folder / files.limit), _number(folder / files.usage)
    if limit is None or usage is None or limit >= _NO_LIMIT_BYTES:
        return None
    pairs = (line.split() for line in _lines(folder / "memory.stat"))
    droppable = next((int(words[1]) for words in pairs if words[:1] == [files.inactive]), 0)
    return Group(str(folder), limit, max(usage - droppable, 0))


def _number(path: Path) -> int | None:
    """Return the number in a file; None where there is none, as in v2's `max`."""
    text = "".join(_lines(path))
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _mib(number: int) -> str:
    return f"{number / (1 << 20):.0f} MiB"
