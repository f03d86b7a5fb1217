"""One stream's dealings with the store: what passes is kept, and while istiod is away it is answered.

The stream to istiod goes on from leg to leg (see `istiod_stream`). As long as Envoy could not serve, since
istiod was never heard on it or went away before there were listeners, the time between two attempts is a
leg too, and the store is at its other end.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from pilot_agent.log import get_logger
from pilot_agent.xds import memory
from pilot_agent.xds.envelope import (
    DeltaRequest,
    DeltaResponse,
    SotwRequest,
    SotwResponse,
    Spans,
    read_delta_request,
    read_delta_response,
    read_sotw_request,
    read_sotw_response,
)
from pilot_agent.xds.known_good.answers import Answers, claims
from pilot_agent.xds.known_good.content import Content
from pilot_agent.xds.known_good.keeper import Keeper
from pilot_agent.xds.known_good.store import Store
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.states import States
from pilot_agent.xds.type_urls import LISTENER, short_name

PATIENCE_S: Final = 10.0
"""So long a first answer is waited for when Envoy was answered from the store already; doubled each time."""
_LEG_S: Final = 2.0
_QUIET_S: Final = 1.0
"""A leg to the store lasts 2 s, and then until Envoy has asked nothing for a second."""
_ID: Final = 1
_log = get_logger("xdsproxy")


class Pipes(Protocol):
    """The leg's sockets, see `pipes.UpstreamEnd`."""

    def receive(self) -> object: ...
    def send(self, response: bytes) -> bool: ...
    def end(self) -> None: ...


class Owner(Protocol):
    """Who has the stores, see `stores.Stores`."""

    grace_s: float

    def store(self, variant: Variant, node_id: str) -> Store: ...
    def keeps(self, generation: int) -> bool: ...
    def stale(self, name: str, *, is_stale: bool) -> None: ...
    def is_stale(self, name: str) -> bool: ...
    def count(self, name: str, **labels: str) -> None: ...


class KnownGood:
    """Made for each stream of Envoy's. Thread-safe."""

    def __init__(
        self, owner: Owner, *, variant: Variant, generation: int, name: str, limit_bytes: int
    ) -> None:
        self._owner, self._variant, self._generation, self._name = owner, variant, generation, name
        self._keeper = Keeper(limit_bytes)
        self._store: Store | None = None
        self._is_heard = False  # istiod has answered on this stream
        self._has_listeners = False  # which come last: Envoy has all it needs
        # Envoy was answered from the store, and istiod has not answered since.
        self._is_stale = owner.is_stale(name)
        self._attempts = self._long_attempts = 0
        self._began_s = time.monotonic()

    def begin_leg(self) -> None:
        """Begin a leg to istiod."""
        self._keeper.begin_leg()

    def request(self, seen: SotwRequest | DeltaRequest) -> None:
        """Note a request that goes to istiod."""
        self._note_node(seen)
        if seen.type_url == LISTENER and claims(seen):
            self._has_listeners = True
        if self._store is None or not self._owner.keeps(self._generation):
            return
        self._store.stir()
        orders = self._keeper.request(seen)
        if orders:
            self._store.submit(orders)

    def response(self, seen: SotwResponse | DeltaResponse) -> None:
        """Note a response of istiod's that goes to Envoy."""
        self._has_listeners = self._has_listeners or seen.type_url == LISTENER
        if self._store is not None and self._owner.keeps(self._generation):
            self._store.stir()
            self._keeper.response(seen)

    def answered(self) -> None:
        """Note that istiod has answered: the configuration is live."""
        self._is_heard = True
        if self._is_stale:
            self._is_stale = False
            _log.info("the XDS server answers again: the configuration is live", id=self._name)
        self._owner.stale(self._name, is_stale=False)

    @property
    def can_answer(self) -> bool:
        """Return whether the store is of use: istiod has not told what Envoy needs, and something is kept."""
        is_live = self._is_heard and self._has_listeners
        return not is_live and self._store is not None and self._store.has_any()

    @property
    def grace_left_s(self) -> float:
        """Return how long istiod's first answer is still waited for; 0.0 when that is over."""
        return max(self._began_s + self._owner.grace_s - time.monotonic(), 0.0)

    @property
    def refusal_grace_left_s(self) -> float:
        """Return how long an istiod that refuses is still tried before the store answers: half the grace."""
        return max(self._began_s + self._owner.grace_s / 2 - time.monotonic(), 0.0)

    def patience_s(self, leg: int) -> float:
        """Return how long a leg's first answer is waited for before the store is asked."""
        self._attempts += 1
        if leg == self._attempts and self.grace_left_s:  # Envoy has nothing yet
            return self.grace_left_s
        self._long_attempts += 1
        return PATIENCE_S * 2.0 ** min(self._long_attempts - 1, 10)

    def serve(self, pipes: Pipes, *, at_least_s: float, states: States) -> None:
        """Answer Envoy's requests on this leg from the store for a while, or until the leg is over."""
        answers = Answers(self._content)
        began_s = time.monotonic()
        quiet = _Quiet(pipes.end)
        try:
            quiet.end_in(max(at_least_s, _LEG_S))
            while (body := pipes.receive()) is not None:
                if not isinstance(body, bytes):
                    continue  # a health report: istiod is told on its own leg
                left_s = began_s + max(at_least_s, _LEG_S) - time.monotonic()
                quiet.end_in(max(left_s, _QUIET_S))
                self._answer(answers, body, pipes, states)
        finally:
            quiet.cancel()
            pipes.end()
            memory.trim_soon()

    def _answer(self, answers: Answers, body: bytes, pipes: Pipes, states: States) -> None:
        is_sotw = self._variant == "sotw"
        seen = read_sotw_request(body) if is_sotw else read_delta_request(body)
        states.request(seen)
        self._note_node(seen)
        if seen.is_nack:  # another Envoy than the one that accepted it
            _log.warn(
                f"Envoy rejects the last known good configuration: {seen.error_text()}",
                id=self._name,
                type=short_name(seen.type_url),
            )
        response = answers.answer(seen)
        if response is None:
            return
        self._note_stale(seen.type_url)
        answered = read_sotw_response(response) if is_sotw else read_delta_response(response)
        states.response(answered, "last known good")
        pipes.send(response)

    def _content(self, type_url: str) -> Content | None:
        return None if self._store is None else self._store.content(type_url)

    def _note_node(self, seen: SotwRequest | DeltaRequest) -> None:
        if self._store is None and seen.has_node:
            node = Spans(seen.spans.last(2 if self._variant == "sotw" else 1) or b"")
            self._store = self._owner.store(self._variant, node.text(_ID))

    def _note_stale(self, type_url: str) -> None:
        age_s = self._store.age_s() if self._store is not None else None
        if not self._is_stale:
            self._is_stale = True
            self._owner.stale(self._name, is_stale=True)
            _log.warn(
                "the XDS server cannot be reached: serving the last known good configuration, "
                f"written {age_s or 0.0:.0f}s ago",
                id=self._name,
            )
        _log.info("last known good configuration served", id=self._name, type=short_name(type_url))
        self._owner.count("xds_last_known_good_responses", type=short_name(type_url))


class _Quiet:
    """Calls once, some time after the last time that it was put off."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._timer: threading.Timer | None = None

    def end_in(self, delay_s: float) -> None:
        self.cancel()
        self._timer = threading.Timer(delay_s, self._call)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
