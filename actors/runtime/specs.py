"""The supervision tree as a table: order, limits and what each actor is made of."""

import msgspec

from actors.runtime.context import Actor
from actors.runtime.roles import Role


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One actor's row. Every actor is permanent: it is started again for as long as the agent lives."""

    role: Role
    actor: type[Actor]
    quit_s: float  # how long it may take to end in order before it is killed
    private_limit_bytes: int  # resident minus file-backed; above it the actor is killed and restarted
    heartbeat_late_s: float = 10.0
    holds_secrets: bool = False  # non-dumpable, no core file
    after_envoy: bool = False  # first started once Envoy is spawned: it loads for longer than this takes
    ends_by_itself: bool = False  # gets Quit as a message and answers with EndAgent when all is over


MIB = 1 << 20
