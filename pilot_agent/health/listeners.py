"""Has Envoy a listener of istiod's, or only those of its bootstrap?

An update without any listener is valid, Envoy accepts it, and its own readiness listener stays: all
that a sidecar captures is refused from then on.
"""

from typing import Any, Final

import msgspec

from pilot_agent.health import readiness
from pilot_agent.http import HttpError, fetch
from pilot_agent.unreadable import UNREADABLE

ACTIVE: Final = "listener_manager.total_listeners_active"
ACTIVE_FILTER: Final = rf"|^{ACTIVE}$".replace(".", r"\.")
"""Added to what a serving Envoy is asked."""

_MANY: Final = 16
"""No bootstrap has as many: with more, some are istiod's, and Envoy is spared a dump of them all."""

_DUMP: Final = "/config_dump?resource=static_listeners"
_LIMIT_BYTES: Final = 1 << 20


class Listeners:
    """Knows of each admin port how many listeners its Envoy has from its bootstrap; for one thread."""

    def __init__(self, host: str, timeout_s: float) -> None:
        self._host, self._timeout_s = host, timeout_s
        self._static: dict[int, int] = {}  # generation → listeners of the bootstrap

    def has_dynamic(self, answer: str, *, generation: int, admin_port: int) -> bool | None:
        """Return whether there are listeners of istiod's; None when that could not be told.

        `answer` are stats with `ACTIVE`.

        Raises:
            StatsError: that line has no number.
        """
        active = readiness.stat(answer, ACTIVE)
        if active is None or active > _MANY:
            return None if active is None else True
        static = self._static.get(generation)
        if static is None:
            static = self._asked(admin_port)
            if static is None:
                return None
            self._static[generation] = static  # a number for each Envoy there ever was
        return active > static

    def _asked(self, admin_port: int) -> int | None:
        try:
            answer = fetch(
                self._host, admin_port, "GET", _DUMP, timeout_s=self._timeout_s, limit_bytes=_LIMIT_BYTES
            )
            if answer.status != 200:
                return None
            return len(msgspec.json.decode(answer.body, type=_Dump).configs)
        except (HttpError, *UNREADABLE):
            return None


class _Dump(msgspec.Struct):
    configs: list[Any] = msgspec.field(default_factory=list)
