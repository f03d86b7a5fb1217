"""What belongs to one connection to istiod, and what every one of them is told: the health state."""

import threading
from typing import TYPE_CHECKING, Final, Protocol

from pilot_agent.xds import requests, type_urls
from pilot_agent.xds.envelope import DeltaRequest, DeltaResponse, SotwRequest, SotwResponse
from pilot_agent.xds.pipes import UpstreamEnd

if TYPE_CHECKING:
    from pilot_agent.rpc.client import ClientCall


class DownstreamPort(Protocol):
    """Where a stream's events go; called in order of the stream, and never blocking.

    `name_table` raises InternalTypeError where the table cannot be used.
    """

    def replay(self, leg: int) -> None: ...
    def refused(self, code: int, details: str) -> None: ...
    def name_table(self, body: bytes) -> None: ...
    def trust_bundle(self, ca_certificates_pem: tuple[str, ...]) -> None: ...
    def extension_configs(self, leg: int, seen: SotwResponse | DeltaResponse) -> bytes | None: ...
    def count(self, name: str, **labels: str) -> None: ...
    def seen_response(self, seen: SotwResponse | DeltaResponse) -> None: ...
    def seen_request(self, seen: SotwRequest | DeltaRequest) -> None: ...


class Health:
    """The application's last known state, which every stream tells istiod. Thread-safe."""

    def __init__(self) -> None:
        self._verdict: tuple[str | None] | None = None

    def set(self, error: str | None) -> None:
        self._verdict = (error,)

    def request(self, variant: requests.Variant) -> bytes | None:
        """Return the report, None when nothing is known yet."""
        verdict = self._verdict
        return None if verdict is None else requests.health(variant, type_urls.HEALTH, verdict[0])


class Report:
    """Stands in the queue of requests for "tell the health state now"."""


class Ask:
    """Stands in the queue of requests for "ask for the internal types that are new"."""


ASK: Final = Ask()
REPORT: Final = Report()


class Leg:
    """What belongs to one connection."""

    def __init__(self, number: int, descriptors: tuple[int, ...]) -> None:
        self.number = number
        self.pipes: UpstreamEnd[bytes | Report | Ask] = UpstreamEnd(*descriptors)
        self.turn = threading.Lock()  # held from the choice of what Envoy gets next until it is sent
        self.noting = threading.Lock()  # held while a response is sent and noted, and while an answer is
        self.over = threading.Event()
        self.was_served = False  # a response has come
        self.is_given_up = False  # it took istiod too long
        self.call: ClientCall | None = None  # once it was made

    def end(self) -> None:
        """Cancel the call and let go of everybody who waits; may be called twice and from any thread."""
        self.over.set()
        self.pipes.end()
        if self.call is not None:
            self.call.cancel()
