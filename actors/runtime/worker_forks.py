"""The supervisor's side of the workers: forks one for each wish, and knows whose end is whose."""

import os
from collections.abc import Iterable, Mapping

from actors.messages import control as said
from actors.runtime import process
from actors.runtime.roles import Role
from actors.runtime.workers import PRESTARTED_ID, Prestarted, serve_one
from pilot_agent.log import get_logger, sink_descriptors

_log = get_logger()


class WorkerForks:
    """The living workers by pid, and those that wait since before the heavy imports."""

    def __init__(
        self,
        functions: Mapping[str, str],
        prestarted: Iterable[Prestarted],
        inherited: Mapping[int, tuple[Role, int]],
    ) -> None:
        """`functions` are kind → "module:name"; `inherited` are workers of the version before, by pid."""
        self._functions = functions
        self._waiting = {worker.kind: worker for worker in prestarted}
        self._asker = {worker.pid: (Role.CERT, PRESTARTED_ID) for worker in self._waiting.values()} | dict(
            inherited
        )

    def fork(self, asker: Role, wish: said.RunWorker, descriptor: int) -> str:
        """Start a worker that reads its request from `descriptor`; return what is wrong, "" if nothing is."""
        function = self._functions.get(wish.kind)
        if function is None:
            return f"worker kind got={wish.kind} expected=one of {sorted(self._functions)}"
        supervisor = os.getpid()
        try:
            pid = process.fork()
        except OSError as error:
            return f"worker {wish.kind} cannot be started: {error}"
        if pid == 0:
            try:
                process.die_with_parent(supervisor)
                process.child_signals()
                process.close_all_but({descriptor, *sink_descriptors()})
                process.name_process(f"pa-work-{wish.kind}")
                process.keep_secrets()
                serve_one(descriptor, function, limit_s=wish.timeout_s)
            finally:
                os._exit(1)  # whatever went wrong: a child must not go on as a second supervisor
        self._asker[pid] = (asker, wish.worker_id)
        return ""

    def ended(self, pid: int, status: int) -> tuple[Role, said.WorkerExited] | None:
        """Return whom to tell what, None if `pid` was no worker."""
        found = self._asker.pop(pid, None)
        if found is None:
            return None
        role, worker_id = found
        return role, said.WorkerExited(worker_id=worker_id, status=status)

    def waiting(self) -> dict[str, int]:
        """Return kind → descriptor of the workers that wait and live."""
        return {kind: each.descriptor for kind, each in self._waiting.items() if each.pid in self._asker}

    def any_waiting(self) -> bool:
        return bool(self._waiting)

    def forget_waiting(self) -> None:
        """Close our ends: whoever was to have these workers has them; that end must be the only one."""
        while self._waiting:
            _, worker = self._waiting.popitem()
            os.close(worker.descriptor)

    def inventory(self) -> dict[int, tuple[Role, int]]:
        """Return pid → who asked, and the worker's number."""
        return dict(self._asker)
