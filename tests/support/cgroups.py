"""A memory limit by cgroup, version 2 or 1, where this machine lets us make one."""

import os
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

_numbers = count()


@dataclass(frozen=True)
class MemoryLimit:
    """`files` take the pid of a process that joins; `views`: where a container sees its own group."""

    directory: Path | None = None
    files: list[str] = field(default_factory=list)
    views: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, limit_bytes: int) -> Self:
        """Return a group with this limit; one without effect if there can be none."""
        if limit_bytes <= 0:
            return cls()
        for base, file, view in _hierarchies():
            directory = base / f"pilot-agent-test-{os.getpid()}-{next(_numbers)}"
            try:
                directory.mkdir()
                (directory / file).write_text(str(limit_bytes))
            except OSError:
                if directory.is_dir():
                    directory.rmdir()
                continue
            return cls(directory, [str(directory / "cgroup.procs")], {view: str(directory)})
        return cls()

    def peak_bytes(self) -> int:
        """Return the most that was in use at a time; 0 where there is no limit."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if self.directory is not None and (self.directory / name).is_file():
                return int((self.directory / name).read_text())
        return 0

    def remove(self) -> None:
        if self.directory is not None:
            self.directory.rmdir()


def _hierarchies() -> list[tuple[Path, str, str]]:
    own = dict(_own_groups())
    found = []
    if "memory" in own:
        found.append(
            (Path("/sys/fs/cgroup/memory") / own["memory"], "memory.limit_in_bytes", "/sys/fs/cgroup/memory")
        )
    if "" in own:
        found.append((Path("/sys/fs/cgroup") / own[""], "memory.max", "/sys/fs/cgroup"))
    return found


def _own_groups() -> list[tuple[str, str]]:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    parts = [line.split(":", 2) for line in lines]
    return [(controller, path.lstrip("/")) for _, names, path in parts for controller in names.split(",")]
