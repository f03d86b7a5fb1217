"""The secrets that the SDS server may serve; streams wait here for what is still missing."""

import threading
import time
from collections.abc import Callable
from typing import Final

from pilot_agent.security.errors import SecurityError
from pilot_agent.security.material import Material

ASK_AGAIN_S: Final = 5.0
"""A question or its answer may be lost with the process that held it; so it is asked again."""

LONGEST_WAIT_S: Final = 75.0
"""Longer than all attempts of one signing; after it the stream fails and Envoy comes again."""


class WaitEndedError(Exception):
    """Whoever waited is gone."""


class SecretStore:
    """Keeps the newest material of each name. All methods may be called from any thread.

    Args:
        ask: Asks for material by name; called without the lock, must not block.
        now: The wall clock, seconds since the epoch.
    """

    def __init__(self, ask: Callable[[str], None], now: Callable[[], float] = time.time) -> None:
        self._ask, self._now = ask, now
        self._changed = threading.Condition()
        self._materials: dict[str, Material] = {}
        self._failures: dict[str, tuple[int, str]] = {}  # name → how many so far, the last reason
        self._asked_at: dict[str, float] = {}  # monotonic

    def put(self, material: Material) -> bool:
        """Keep `material`; return whether it differs from what was kept."""
        with self._changed:
            self._asked_at.pop(material.name, None)
            if self._materials.get(material.name) == material:
                return False
            self._materials[material.name] = material
            self._changed.notify_all()
            return True

    def fail(self, name: str, reason: str) -> None:
        """Tell those who wait for `name` that it cannot be had now."""
        with self._changed:
            self._asked_at.pop(name, None)
            self._failures[name] = (self._failures.get(name, (0, ""))[0] + 1, reason)
            self._changed.notify_all()

    def current(self, name: str) -> Material | None:
        """Return the material of `name` unless it is missing or expired."""
        with self._changed:
            return self._current(name)

    def all(self) -> tuple[Material, ...]:
        """Return everything that is kept."""
        with self._changed:
            return tuple(self._materials.values())

    def ask_anew(self) -> None:
        """Forget what was asked: whoever was asked has been restarted."""
        with self._changed:
            self._asked_at.clear()
            self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait look whether they still should."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, name: str, ended: Callable[[], bool]) -> Material:
        """Return the material of `name`, asking for it and waiting as long as it is missing.

        Raises:
            SecurityError: it cannot be had; the text says why.
            WaitEndedError: `ended` became true.
        """
        begun = time.monotonic()
        with self._changed:
            failures_before = self._failures.get(name, (0, ""))[0]
        while True:
            with self._changed:
                material = self._current(name)
                if material is not None:
                    return material
                failures, reason = self._failures.get(name, (0, ""))
                if failures > failures_before:
                    raise SecurityError(reason)
                if ended():
                    raise WaitEndedError
                if time.monotonic() - begun > LONGEST_WAIT_S:
                    raise SecurityError(f"no answer within {LONGEST_WAIT_S:.0f}s")
                must_ask = self._ask_is_due(name)
                if not must_ask:
                    self._changed.wait(ASK_AGAIN_S)
            if must_ask:
                self._ask(name)

    def _current(self, name: str) -> Material | None:
        material = self._materials.get(name)
        return material if material is not None and material.valid(self._now()) else None

    def _ask_is_due(self, name: str) -> bool:
        now = time.monotonic()
        if now - self._asked_at.get(name, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return False
        self._asked_at[name] = now
        return True
