"""What one conversion adds to the agent's metrics; collected in the worker, counted by the actor.

Source: the reference's names and labels.
"""

import threading
from typing import Final

from pilot_agent.wasm.work import Count

BUCKETS_MS: Final = tuple(1 << power for power in range(15))
"""1, 2, 4 … 16384."""


class Tally:
    """Collects; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: list[Count] = []

    @property
    def counts(self) -> list[Count]:
        with self._lock:
            return list(self._counts)

    def lookup(self, *, hit: bool) -> None:
        self._add("wasm_cache_lookup_count", 1.0, hit="true" if hit else "false")

    def fetch(self, result: str) -> None:
        self._add("wasm_remote_fetch_count", 1.0, result=result)

    def conversion(self, result: str) -> None:
        self._add("wasm_config_conversion_count", 1.0, result=result)

    def duration(self, milliseconds: int) -> None:
        """Note how long a whole response took; buckets are cumulative, and all of them appear."""
        name = "wasm_config_conversion_duration"
        for limit in BUCKETS_MS:
            self._add(f"{name}_bucket", float(milliseconds <= limit), le=str(limit))
        self._add(f"{name}_bucket", 1.0, le="+Inf")
        self._add(f"{name}_sum", float(milliseconds))
        self._add(f"{name}_count", 1.0)

    def _add(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._counts.append(Count(name, value, labels))
