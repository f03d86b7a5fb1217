"""Marks of byte-path work in progress: the heartbeat says how old the oldest unfinished piece is."""

import time


class Mark:
    """One thread's current piece of work. Only that thread calls it; anybody may read `age_s`."""

    __slots__ = ("_since", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._since = 0.0

    def begin(self) -> None:
        self._since = time.monotonic()

    def end(self) -> None:
        self._since = 0.0

    def age_s(self) -> float:
        """Return how long the current piece takes; 0.0 between pieces."""
        since = self._since
        return time.monotonic() - since if since else 0.0
