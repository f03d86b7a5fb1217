"""Asks one Envoy whether it is LIVE, often at first and seldom later; runs in a thread of its own."""

import threading
import time
from typing import Final

from pilot_agent.envoy.admin import Admin, AdminError
from pilot_agent.envoy.model import Generation, SeenLive

_QUICK_S: Final = 0.03
_QUICK_FOR_S: Final = 3.0  # a start takes 60 to 320 ms; one without istiod as long as istiod is away
_SLOW_S: Final = 0.25
_CALL_S: Final = 1.0


class LiveWatch:
    """Watches one generation until it is LIVE or `end` is called."""

    def __init__(self, admin: Admin, generation: Generation) -> None:
        self._admin, self._generation = admin, generation
        self._ended = threading.Event()

    def end(self) -> None:
        """Let `run` return, within one call's time limit."""
        self._ended.set()

    def run(self) -> SeenLive | None:
        """Block until the generation is LIVE; None when `end` was called before."""
        quick_until_s = time.monotonic() + _QUICK_FOR_S
        while not self._ended.is_set():
            if self._is_live():
                return SeenLive(generation=self._generation.generation)
            self._ended.wait(_QUICK_S if time.monotonic() < quick_until_s else _SLOW_S)
        return None

    def _is_live(self) -> bool:
        """Whether the port's present owner is this generation, and LIVE; it may still be its parent."""
        if not self._admin.is_live(timeout_s=_CALL_S):
            return False
        try:
            info = self._admin.server_info(timeout_s=_CALL_S)
        except AdminError:
            return False
        wanted = self._generation
        return (info.state, info.base_id, info.epoch) == ("LIVE", wanted.base_id, wanted.epoch)
