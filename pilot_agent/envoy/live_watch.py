"""Asks one Envoy whether it is LIVE, often at first and seldom later; runs in a thread of its own."""

import threading
import time
from typing import Final

from pilot_agent.envoy.admin import Admin, AdminError
from pilot_agent.envoy.model import Generation, SeenLive

_SHORTEST_S: Final = 0.02  # a start takes 60 to 320 ms
_LONGEST_S: Final = 1.0  # without istiod it takes as long as istiod is away
_SHARE: Final = 0.05  # of the time that has passed: LIVE is seen that much late at most
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
        began_s = time.monotonic()
        while not self._ended.is_set():
            if self._is_live():
                return SeenLive(generation=self._generation.generation)
            passed_s = time.monotonic() - began_s
            self._ended.wait(min(max(passed_s * _SHARE, _SHORTEST_S), _LONGEST_S))
        return None

    def _is_live(self) -> bool:
        """Whether the port's present owner is this generation, and LIVE; it may still be its parent."""
        if not self._admin.is_live(timeout_s=_CALL_S):
            return False
        if not self._generation.is_hot:  # nobody else has its port; the answer below is 120 KB
            return True
        try:
            info = self._admin.server_info(timeout_s=_CALL_S)
        except AdminError:
            return False
        wanted = self._generation
        return (info.state, info.base_id, info.epoch) == ("LIVE", wanted.base_id, wanted.epoch)
