"""Downloads a module from an http or https URL, with attempts.

Source: the reference's Wasm HTTP fetcher. Unlike there the waits end with the time limit, and a body
that is too large is an error instead of being cut.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pilot_agent.http import (
    Deadline,
    HttpError,
    ResponseTooLargeError,
)
from pilot_agent.log import get_logger
from pilot_agent.wasm.download import save
from pilot_agent.wasm.errors import FetchError
from pilot_agent.wasm.guard import BlockedAddressError
from pilot_agent.wasm.image_name import without_userinfo
from pilot_agent.wasm.unpack import unwrapped
from pilot_agent.wasm.web import Web

_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 60.0
_GROWTH: Final = 1.5
_NOT_RETRIED: Final = (501, 505, 511)
_PACKING_OVERHEAD_BYTES: Final = 1 << 20
_log = get_logger("wasm")


class HttpFetch:
    """Fetches one URL."""

    def __init__(
        self,
        web: Web,
        *,
        insecure: bool,
        attempts: int,
        request_timeout_s: float,
        limit_bytes: int,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._web, self._insecure, self._attempts = web, insecure, max(attempts, 1)
        self._request_timeout_s, self._limit_bytes, self._sleep = request_timeout_s, limit_bytes, sleep

    def download(self, url: str, target: Path, deadline: Deadline) -> Path:
        """Return the file with the unpacked module: `target`, or one beside it.

        Raises:
            FetchError: it cannot be had.
            OSError: the disk.
        """
        wait_s, last = _FIRST_WAIT_S, "the time limit has passed"
        for attempt in range(1, self._attempts + 1):
            try:
                self._once(url, target, deadline)
                return unwrapped(target, limit_bytes=self._limit_bytes)
            except _LaterError as error:
                last = str(error)
                _log.debug(f"wasm module download of {without_userinfo(url)}: attempt {attempt}: {last}")
            this_wait_s = wait_s * random.uniform(0.5, 1.5)  # noqa: S311  # spreads load
            if attempt == self._attempts or this_wait_s >= deadline.left_s():
                break
            self._sleep(this_wait_s)
            wait_s = min(wait_s * _GROWTH, _LONGEST_WAIT_S)
        raise FetchError(f"wasm module download failed after {attempt} attempts, last error: {last}")

    def _once(self, url: str, target: Path, deadline: Deadline) -> None:
        """Raises: _LaterError: another attempt may help; FetchError: none will."""
        try:
            within = Deadline(min(self._request_timeout_s, deadline.left_s()))
            with self._web.open(url, insecure=self._insecure, deadline=within) as exchange:
                if exchange.status == 200:
                    save(exchange, target, limit_bytes=self._limit_bytes + _PACKING_OVERHEAD_BYTES)
                    return
                status = exchange.status
        except (BlockedAddressError, ResponseTooLargeError) as error:
            raise FetchError(f"wasm module download from {without_userinfo(url)} failed: {error}") from error
        except HttpError as error:
            raise _LaterError(str(error)) from error
        problem = f"wasm module download request failed: status code {status}"
        if status >= 500 and status not in _NOT_RETRIED:
            raise _LaterError(problem)
        raise FetchError(problem)


class _LaterError(Exception):
    """This attempt failed; the next may not."""
