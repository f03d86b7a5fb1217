"""What EnvoyActor tells of Envoy's epochs, and what may be asked of it."""

from typing import Literal

import msgspec


class EpochStarted(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → Health: an Envoy was spawned; not serving yet."""

    generation: int  # grows for the agent's whole life
    epoch: int  # Envoy's --restart-epoch; starts again at 0 with a new base id
    pid: int
    admin_port: int


class EpochLive(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → Health: this generation reports LIVE."""

    generation: int
    epoch: int


class EpochExited(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → Health: this generation's process has ended."""

    generation: int
    epoch: int
    status: str  # in words: "exit status 1", "signal: killed"


class Draining(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → Health: the agent is ending; readiness is over. `cause` stands in the log."""

    cause: str


class EpochsHeld(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy → Health, after either was restarted: all living generations, oldest first."""

    started: tuple[EpochStarted, ...]
    live_generations: tuple[int, ...]
    draining: bool


class EnvoyCommand(msgspec.Struct, frozen=True, kw_only=True):
    """Health (status port) → Envoy: an operator's wish.

    "drain" drains the listeners and leaves Envoy up, "quit" ends the agent at once, "restart" starts
    a new epoch.
    """

    verb: Literal["drain", "quit", "restart"]
