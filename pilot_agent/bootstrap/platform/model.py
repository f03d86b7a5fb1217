"""What is known of a cloud platform."""

from collections.abc import Mapping
from typing import Final

import msgspec


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of the machine that the metadata of the node carries."""

    name: str
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    locality: Mapping[str, str] = msgspec.field(default_factory=dict)  # region, zone
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)  # of the instance, outside Kubernetes
    kubernetes: bool = True


UNKNOWN: Final = Platform(name="none")
