"""Which fault at which step, drawn from one seed: the same seed draws the same acts in the same order.

It is a deck: each fault that can be played here comes once, at a step drawn for it, before any comes again.
An episode has one variant of the sidecar, and as many cards of it as fit into its time.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from tests.chaos.faults import Fault
from tests.chaos.phases import PHASES, Phase
from tests.chaos.stage import Variant


@dataclass(frozen=True, slots=True)
class Card:
    fault: Fault
    phase: Phase
    variant: Variant
    target: str  # "sidecar" or "router"

    def __str__(self) -> str:
        where = "" if self.target == "sidecar" else f" at the {self.target}"
        return f"{self.fault.name}{where}, {self.phase.name} ({self.variant})"


_ROUTER = 0.15  # share of the cards that strike the gateway where they can


def deck(faults: Sequence[Fault], draw: random.Random) -> list[Card]:
    """Return one card for each fault, in a drawn order."""
    cards = [card(fault, draw) for fault in faults]
    draw.shuffle(cards)
    return cards


def card(fault: Fault, draw: random.Random) -> Card:
    """Draw variant, step and target for a fault, among those that fit each other."""
    fits = [
        (variant, PHASES[name])
        for variant in get_args(Variant)
        for name in sorted(fault.phases)
        if variant in fault.variants and variant in PHASES[name].variants
    ]
    variant, phase = draw.choice(fits)
    router = fault.router_too and phase.name in ("steady", "push") and draw.random() < _ROUTER
    return Card(fault, phase, variant, "router" if router else "sidecar")


def episodes(
    faults: Sequence[Fault], draw: random.Random, *, acts: int
) -> Iterator[tuple[Variant, list[Card], int]]:
    """Yield (variant, cards, seed of the episode) for ever, at most `acts` cards each."""
    while True:
        cards = deck(faults, draw)
        order = list(get_args(Variant))
        draw.shuffle(order)
        waiting = {variant: [one for one in cards if one.variant == variant] for variant in order}
        while any(waiting.values()):
            for variant in order:
                now, waiting[variant] = waiting[variant][:acts], waiting[variant][acts:]
                if now:
                    yield variant, now, draw.randrange(1 << 32)
