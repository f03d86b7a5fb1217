"""Which Envoys there are, and which of them earned readiness. Pure: each step returns a new state.

The reference latches "ready" once for its whole life. Here readiness belongs to a generation: a new
one must earn it while the old one still counts, and it goes with the process that earned it.
"""

from typing import Self

import msgspec


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One Envoy process, with what it has proved so far."""

    generation: int  # grows for the agent's whole life
    epoch: int
    admin_port: int
    pid: int = 0  # 0: not known
    live: bool = False  # EnvoyActor says so
    config_received: bool = False  # latch: CDS and LDS were accepted
    ready: bool = False  # latch: LIVE with workers


class Generations(msgspec.Struct, frozen=True, kw_only=True):
    """All living generations, oldest first."""

    alive: tuple[Generation, ...] = ()
    last_exit: str = ""  # of the one that ended last, in words
    draining_cause: str = ""  # not empty: the agent is ending
    drained: bool = False  # an operator has drained the listeners of those that live
    ever_ready: bool = False
    listened: bool = False  # Envoy's own readiness listener was seen to accept
    configured: bool = False  # listeners of istiod's were seen

    def started(self, generation: int, epoch: int, admin_port: int, pid: int = 0) -> Self:
        """Note a new process; one that is known already keeps what it proved."""
        if self.find(generation) is not None:
            return self
        new = Generation(generation=generation, epoch=epoch, admin_port=admin_port, pid=pid)
        alive = tuple(sorted((*self.alive, new), key=lambda each: each.generation))
        return msgspec.structs.replace(self, alive=alive, drained=False)

    def went_live(self, generation: int) -> Self:
        return self._with(generation, live=True)

    def received_config(self, generation: int) -> Self:
        return self._with(generation, config_received=True)

    def earned(self, generation: int) -> Self:
        earned = self._with(generation, config_received=True, ready=True)
        return msgspec.structs.replace(earned, ever_ready=self.ever_ready or earned.any_ready())

    def exited(self, generation: int, status: str) -> Self:
        kept = tuple(each for each in self.alive if each.generation != generation)
        return msgspec.structs.replace(self, alive=kept, last_exit=status)

    def listens(self) -> Self:
        return msgspec.structs.replace(self, listened=True)

    def has_listeners(self) -> Self:
        return msgspec.structs.replace(self, configured=True)

    def were_drained(self) -> Self:
        return msgspec.structs.replace(self, drained=True)

    def draining(self, cause: str) -> Self:
        return msgspec.structs.replace(self, draining_cause=self.draining_cause or cause)

    def held(self, generations: tuple[int, ...]) -> Self:
        """Drop what is not among `generations`: it ended while nobody told us."""
        return msgspec.structs.replace(
            self, alive=tuple(each for each in self.alive if each.generation in generations)
        )

    def find(self, generation: int) -> Generation | None:
        return next((each for each in self.alive if each.generation == generation), None)

    def any_ready(self) -> bool:
        return any(each.ready for each in self.alive)

    def earned_ones(self) -> tuple[Generation, ...]:
        """Return those that have proved themselves, newest first."""
        return tuple(each for each in reversed(self.alive) if each.ready)

    def unearned(self) -> tuple[Generation, ...]:
        """Return those that must still prove themselves, newest first."""
        return tuple(each for each in reversed(self.alive) if not each.ready)

    def _with(self, generation: int, **changes: bool) -> Self:
        alive = tuple(
            msgspec.structs.replace(each, **changes) if each.generation == generation else each
            for each in self.alive
        )
        return msgspec.structs.replace(self, alive=alive)
