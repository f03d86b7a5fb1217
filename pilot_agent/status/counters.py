"""What the status server itself counts; readable at once, where other actors' values come with heartbeats."""

import threading
from collections.abc import Iterator, Mapping

from pilot_agent.status.exposition import Sample, series


class Counters:
    """Counters by series, for many threads."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = dict(values)
        self._lock = threading.Lock()

    def add(self, name: str, **labels: str) -> None:
        key = series(name, **labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + 1.0

    def values(self) -> dict[str, float]:
        """Return a copy, to be kept."""
        with self._lock:
            return dict(self._values)

    def samples(self) -> Iterator[Sample]:
        return (Sample(series=key, value=value) for key, value in self.values().items())
