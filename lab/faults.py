"""The failures that a test can order. All are switches that may be turned at any time."""

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Faults:
    """Everything off is a control plane in good health."""

    refuse_tokens: bool = False  # both services answer UNAUTHENTICATED
    ca: Literal["up", "unavailable", "refuse", "hang", "short-chain"] = "up"
    ads: Literal["up", "unavailable", "silent"] = "up"  # silent: takes requests, answers none
    certificate_ttl_s: int | None = None  # signs with this instead of what is asked for
