"""The stores of this process: one for each node and variant that Envoy's streams name, usually one."""

import threading
from collections.abc import Callable
from pathlib import Path

from pilot_agent.xds.known_good.store import Store
from pilot_agent.xds.known_good.stream import KnownGood
from pilot_agent.xds.options import LastKnownGood
from pilot_agent.xds.requests import Variant


class Stores:
    """Thread-safe. What the newest of the agent's Envoys accepts is kept; the others only read."""

    def __init__(
        self,
        options: LastKnownGood,
        *,
        compact: Callable[[str, bytes], None],
        gauge: Callable[[str, float], None],
        count: Callable[..., None],
        stale: frozenset[str] = frozenset(),
        stale_changed: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        """Use these ways to the outside.

        Args:
            options: Settings.
            compact: Has a worker started (`files.compact`), whose result goes to `compacted`.
            gauge: Sets a metric.
            count: Adds to a metric.
            stale: Streams that stood on the store when this process's predecessor died.
            stale_changed: Is told which do.
        """
        self.grace_s = options.grace_s
        self._options, self._compact, self._gauge, self.count = options, compact, gauge, count
        self._stale, self._stale_changed = stale, stale_changed
        self._lock = threading.Lock()
        self._stores: dict[tuple[Variant, str], Store] = {}
        self._newest = -1
        if stale:
            self._tell_stale()

    def for_stream(self, *, variant: Variant, generation: int, name: str) -> KnownGood:
        """Return a new stream's part; from now on no older Envoy's configuration is kept."""
        with self._lock:
            self._newest = max(self._newest, generation)
        return KnownGood(
            self, variant=variant, generation=generation, name=name, limit_bytes=self._options.limit_bytes
        )

    def keeps(self, generation: int) -> bool:
        return generation >= self._newest

    def store(self, variant: Variant, node_id: str) -> Store:
        """Return the store of this node."""
        with self._lock:
            known = self._stores.get((variant, node_id))
            if known is None:
                known = self._stores[variant, node_id] = Store(
                    Path(self._options.directory),
                    identity=(node_id, *self._options.owner),
                    variant=variant,
                    limit_bytes=self._options.limit_bytes,
                    compact=lambda key, request: self._compact(f"{variant} {node_id} {key}", request),
                    gauge=self._gauge,
                )
                known.tell_written()
            return known

    def compacted(self, key: str, result: bytes | None) -> None:
        """Take a worker's result; None when it failed."""
        for (variant, node_id), store in list(self._stores.items()):
            own = f"{variant} {node_id} "
            if key.startswith(own):
                store.compacted(key.removeprefix(own), result)

    def stale(self, name: str, *, is_stale: bool) -> None:
        """Note whether a stream of Envoy's stands on the store."""
        with self._lock:
            before = self._stale
            self._stale = before | {name} if is_stale else before - {name}
            if self._stale != before:
                self._tell_stale()

    def is_stale(self, name: str) -> bool:
        return name in self._stale

    def hold(self, names: frozenset[str]) -> None:
        """Forget the streams that Envoy does not have open any more."""
        with self._lock:
            before, self._stale = self._stale, self._stale & names
            if self._stale != before:
                self._tell_stale()

    def flush(self, within_s: float) -> None:
        """Wait until everything is written."""
        for store in list(self._stores.values()):
            store.flush(within_s)

    def _tell_stale(self) -> None:
        self._gauge("xds_last_known_good_serving", len(self._stale))
        self._stale_changed(self._stale)
