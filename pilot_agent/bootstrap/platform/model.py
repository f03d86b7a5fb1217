"""What is known of a cloud platform."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Facts of the machine that the metadata of the node carries."""

    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    locality: Mapping[str, str] = field(default_factory=dict)  # region, zone
    labels: Mapping[str, str] = field(default_factory=dict)  # of the instance, outside Kubernetes
    kubernetes: bool = True


UNKNOWN: Final = Platform(name="none")
