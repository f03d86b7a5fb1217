"""Descriptors exhausted: a process may open no more than it has, as by prlimit."""

import contextlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.chaos.faults import NOTHING, Fault, Strike, add
from tests.chaos.stage import ALL_ROLES
from tests.support.waiting import wait_for

_PHASES: Final = frozenset({"steady", "push", "rotation", "hot restart"})
_SPARE: Final = (0, 1, 3)


def _pid(strike: Strike, whose: str) -> int:
    if whose == "supervisor":
        assert strike.agent.process is not None
        return strike.agent.process.pid
    return wait_for(lambda: strike.watch.alive(whose), within_s=20, what=whose)[-1].pid


def _way(whose: str) -> Any:
    @contextmanager
    def way(strike: Strike) -> Iterator[None]:
        pid = _pid(strike, whose)
        _, hard = limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        highest = max((int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()), default=2)
        soft = highest + 1 + strike.stage.draw.choice(_SPARE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        yield
        children = [one.pid for one in strike.agent.family()] if whose == "supervisor" else []
        for each in (pid, *children):  # who was born meanwhile has the limit, too
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(each, resource.RLIMIT_NOFILE, limits)

    return way


for _whose in (*ALL_ROLES, "supervisor"):
    add(
        Fault(
            name=f"descriptors exhausted: {_whose}",
            way=_way(_whose),
            lasts_s=(1.0, 5.0),
            cuts=frozenset({"dns"}) if _whose == "dns" else NOTHING,
            wants_mounts=_whose == "dns",
            phases=_PHASES,
            heals_within_s=45.0,
        )
    )
