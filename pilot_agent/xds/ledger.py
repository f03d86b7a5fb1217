"""What became of istiod's responses, by type: version, ACK or NACK, when. For the status page and metrics.

One ledger serves all streams of the actor; what the newest of them says stands.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from pilot_agent.xds import type_urls
from pilot_agent.xds.envelope import DeltaRequest, DeltaResponse, SotwRequest, SotwResponse

_TEXT_LIMIT: Final = 2000
_SYSTEM_VERSION: Final = 1  # field of DeltaDiscoveryResponse


class Page(Protocol):
    """Where it is told; see `actors.runtime.context.Context`."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None: ...
    def note(self, name: str, text: str) -> None: ...


class Ledger:
    """Thread-safe."""

    def __init__(self, page: Page, *, now: Callable[[], float] = time.time) -> None:
        self._page, self._now = page, now
        self._pushed: dict[str, tuple[str, str]] = {}  # short name → nonce and version of the last response
        self._lock = threading.Lock()

    def response(self, seen: SotwResponse | DeltaResponse) -> None:
        """Note what istiod sent."""
        name = type_urls.short_name(seen.type_url)
        version = seen.version_info if isinstance(seen, SotwResponse) else seen.spans.text(_SYSTEM_VERSION)
        with self._lock:
            self._pushed[name] = seen.nonce, version
        self._tell(name, pushed=version, pushed_at=self._moment(), resources=str(seen.resource_count))

    def request(self, asked: SotwRequest | DeltaRequest) -> None:
        """Note what is answered to it; a request that is no answer is passed over."""
        if not asked.response_nonce:
            return
        name = type_urls.short_name(asked.type_url)
        with self._lock:
            nonce, version = self._pushed.get(name, ("", ""))
        if nonce != asked.response_nonce:
            version = ""  # an answer to an older response: its version is not known any more
        if asked.is_nack:
            self._page.count("xds_nacks", type=name)
            self._tell(name, nack=asked.error_text(), nack_at=self._moment(), refused=version)
        else:
            self._page.count("xds_acks", type=name)
            self._tell(name, version=version, accepted_at=self._moment())

    def _tell(self, type_name: str, **facts: str) -> None:
        for fact, text in facts.items():
            self._page.note(f"xds/{type_name}/{fact}", text[:_TEXT_LIMIT])

    def _moment(self) -> str:
        return f"{self._now():.3f}"
