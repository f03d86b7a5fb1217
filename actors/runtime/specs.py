"""The supervision tree as a table: order, limits and what each actor is made of."""

import importlib

import msgspec

from actors.runtime.context import Actor
from actors.runtime.roles import Role


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One actor's row. Every actor is permanent: it is started again for as long as the agent lives."""

    role: Role
    actor: type[Actor] | str  # the class, or "module:Class" of a module that only its own process loads
    quit_s: float  # how long it may take to end in order before it is killed
    private_limit_bytes: int  # resident minus file-backed; above it the actor is killed and restarted
    heartbeat_late_s: float = 10.0
    holds_secrets: bool = False  # non-dumpable, no core file
    after_envoy: bool = False  # first started once Envoy is spawned: it loads for longer than this takes
    leaves_estate: bool = False  # a planned successor goes on with its clients' connections
    ends_by_itself: bool = False  # gets Quit as a message and answers with EndAgent when all is over

    def load(self) -> type[Actor]:
        """Return the actor's class."""
        if not isinstance(self.actor, str):
            return self.actor
        module, _, name = self.actor.partition(":")
        found: type[Actor] = getattr(importlib.import_module(module), name)
        return found


MIB = 1 << 20
