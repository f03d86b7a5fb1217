"""Envoys that EnvoyActor wants, held back until what they connect to is Ready."""

from collections.abc import Callable, Collection, Iterator
from typing import Final

from actors.messages import control as said
from actors.runtime.envoys import EnvoyKeeper
from actors.runtime.roles import Role
from pilot_agent.log import get_logger

WAITS_S: Final = 5.0
"""Envoy is not kept waiting longer than this for the servers that it needs: it retries by itself."""

_log = get_logger()


class HeldBack:
    """The wishes by generation: a restarted EnvoyActor asks again."""

    def __init__(
        self, envoys: EnvoyKeeper, after: Collection[Role], is_ready: Callable[[Role], bool]
    ) -> None:
        """Envoy is spawned when the actors of `after` are ready."""
        self._envoys, self._after, self._is_ready = envoys, after, is_ready
        self._wishes: dict[int, said.SpawnEnvoy] = {}

    def __bool__(self) -> bool:
        return bool(self._wishes)

    def add(self, wish: said.SpawnEnvoy) -> None:
        self._wishes[wish.generation] = wish

    def refuse_all(self, reason: str) -> list[said.EnvoySpawnFailed]:
        """Return what EnvoyActor is to be told."""
        wishes, self._wishes = self._wishes, {}
        return [said.EnvoySpawnFailed(generation=generation, reason=reason) for generation in wishes]

    def spawn(self, *, waited: bool) -> list[said.EnvoySpawned | said.EnvoySpawnFailed | said.EnvoyExited]:
        """Spawn them if it is time, `waited` or not; return what EnvoyActor is to be told."""
        is_there = any(map(self._envoys.has_unclaimed, self._wishes))  # where it connects to listens already
        missing = [] if is_there else self.missing()
        if not self._wishes or (missing and not waited):
            return []
        if missing:
            _log.warn(f"Envoy starts without {' and '.join(missing)} being ready")
        wishes, self._wishes = self._wishes, {}
        return [reply for wish in wishes.values() for reply in self._spawn(wish)]

    def missing(self) -> list[Role]:
        """Return those actors of `after` that are not ready."""
        return [role for role in self._after if not self._is_ready(role)]

    def _spawn(
        self, wish: said.SpawnEnvoy
    ) -> Iterator[said.EnvoySpawned | said.EnvoySpawnFailed | said.EnvoyExited]:
        try:
            spawned = self._envoys.spawn(wish)
        except OSError as error:
            yield said.EnvoySpawnFailed(generation=wish.generation, reason=str(error))
            return
        yield said.EnvoySpawned(process=spawned)
        if (ended := self._envoys.end_of(spawned)) is not None:
            yield ended  # it was spawned before it was asked for, and has not lived for so long
