"""The first Envoy, spawned before the actors are imported: both take a tenth of a second, on two processors.

Its files and the sockets that it connects to are made here just as EnvoyActor, DownstreamXdsActor and
SdsActor would make them; who connects early waits in a socket's queue. Where anything cannot be made,
nothing is begun: the actors try the same in their turn, and tell what is wrong.

Must itself import little: the agent waits for it.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final, NamedTuple

import msgspec

from actors.messages.control import SpawnEnvoy
from actors.runtime.exec_envoy import exec_envoy
from actors.runtime.roles import Role
from pilot_agent.bootstrap import BootstrapOptions
from pilot_agent.envoy import EnvoyOptions
from pilot_agent.envoy.launch import Launchpad
from pilot_agent.envoy.model import Generation, Phase, Prepared
from pilot_agent.sockets import BoundSocket, heirlooms, listen_unix

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


class FirstEnvoy(NamedTuple):
    """What lives already when the supervisor begins."""

    pid: int
    prepared: Prepared
    listeners: Mapping[Role, tuple[int, ...]]  # what `adopt_unix` takes

    @property
    def generation(self) -> int:
        return self.prepared.generation


@contextmanager
def first_envoy(
    options: EnvoyOptions, bootstrap: BootstrapOptions, paths: Mapping[Role, str]
) -> Iterator[FirstEnvoy | None]:
    """Spawn the first Envoy, None where that is left to EnvoyActor.

    It ends, with all that was made for it, when an error leaves the block or a signal ends the agent.

    Args:
        options: Envoy's.
        bootstrap: For its configuration.
        paths: The sockets that it connects to, by who will serve them.
    """
    if not options.enabled:
        yield None
        return
    made = _Made(Launchpad(options, bootstrap))
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        begun = made.begin(options, paths)
        for number in _ENDING:
            signal.signal(number, made.end_agent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        yield begun
    except BaseException:
        made.undo()
        raise


class _Made:
    """What there is of it so far, to be taken back."""

    def __init__(self, launchpad: Launchpad) -> None:
        self._launchpad = launchpad
        self._pid = 0
        self._listeners: dict[Role, tuple[int, ...]] = {}
        self._bound: list[BoundSocket] = []

    def begin(self, options: EnvoyOptions, paths: Mapping[Role, str]) -> FirstEnvoy | None:
        try:
            for role, path in paths.items():
                self._listen(role, path)
            self._launchpad.remove_remains()
            wanted = Generation(
                generation=0, epoch=0, base_id=0, admin_port=options.admin_port, phase=Phase.PREPARING
            )
            prepared = self._launchpad.prepare(wanted, validate=False)
            if not prepared.refusal:
                self._pid = exec_envoy(self._wish(options, wanted, prepared))
                return FirstEnvoy(self._pid, prepared, self._listeners)
        except OSError:
            pass  # EnvoyActor meets it again, and says it
        self.undo()
        return None

    def end_agent(self, _number: int, _frame: FrameType | None) -> None:
        """Let a signal end the start with 0, as it does before there is anything to be taken back."""
        self.undo()
        os._exit(0)

    def undo(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        for bound in self._bound:
            bound.unlink()
        for descriptors in self._listeners.values():
            for descriptor in descriptors:
                os.close(descriptor)
        if self._pid or self._bound:
            self._launchpad.remove_own()
        self._pid, self._bound, self._listeners = 0, [], {}

    def _listen(self, role: Role, path: str) -> None:
        listener, bound = listen_unix(path)
        self._bound.append(bound)
        descriptors = heirlooms(listener, bound)
        listener.detach()
        self._listeners[role] = descriptors

    def _wish(self, options: EnvoyOptions, wanted: Generation, prepared: Prepared) -> SpawnEnvoy:
        known = msgspec.structs.replace(
            wanted,
            base_id=prepared.base_id,
            admin_port=prepared.admin_port,
            bootstrap_path=prepared.bootstrap_path,
        )
        launch = self._launchpad.launch(known)
        return SpawnEnvoy(
            generation=wanted.generation,
            argv=launch.argv,
            environment=launch.environment,
            uid=options.uid,
            gid=options.gid,
        )
