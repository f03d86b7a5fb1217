"""Serves a call with a thread of its own that iterates over requests and yields responses."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

from pilot_agent.rpc.call import Call, Method
from pilot_agent.rpc.status import Code

_MOST_WAITING: Final = 2  # as many of the largest requests
_OVERHEAD_BYTES: Final = 64  # of an empty one


class CallEnded(Exception):  # noqa: N818  # an outcome that a handler chooses, like StopIteration
    """Raised by a handler: the call ends with this status."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def _nothing() -> None: ...


class Requests:
    """The requests of a call, in order. Iteration ends when the client half-closes or is gone."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._on_cancel: Callable[[], None] = _nothing
        self._waiting_bytes = 0
        self._queue: Final[queue.SimpleQueue[bytes | None]] = queue.SimpleQueue()

    def message(self, body: bytes) -> None:
        with self._lock:
            self._waiting_bytes += len(body) + _OVERHEAD_BYTES
            is_too_much = self._waiting_bytes > _MOST_WAITING * self.call.limit_bytes
        if is_too_much:
            self.call.finish(Code.RESOURCE_EXHAUSTED, "more requests than are answered")
            self.cancelled()
        else:
            self._queue.put(body)

    def half_closed(self) -> None:
        self._queue.put(None)

    def cancelled(self) -> None:
        with self._lock:
            self._is_cancelled = True
            on_cancel, self._on_cancel = self._on_cancel, _nothing
        self._queue.put(None)
        on_cancel()

    def when_cancelled(self, then: Callable[[], None]) -> None:
        """Have `then` called once, without delay if the client is gone already."""
        with self._lock:
            if not self._is_cancelled:
                self._on_cancel = then
                return
        then()

    def __iter__(self) -> Iterator[bytes]:
        while (body := self._queue.get()) is not None:
            with self._lock:
                self._waiting_bytes -= len(body) + _OVERHEAD_BYTES
            yield body


def iterating(handler: Callable[[Requests], Iterator[bytes]]) -> Method:
    """Return the method that serves each call with `handler` on a thread of its own."""

    def method(call: Call) -> Requests:
        requests = Requests(call)
        threading.Thread(target=_serve, args=(handler, requests), name="grpc-call", daemon=True).start()
        return requests

    return method


def _serve(handler: Callable[[Requests], Iterator[bytes]], requests: Requests) -> None:
    try:
        for body in handler(requests):
            if not requests.call.send(body):
                return
    except CallEnded as end:
        requests.call.finish(end.code, end.details)
    else:
        requests.call.finish()
    finally:  # else a handler that failed would leave its client waiting; nothing happens after an end
        requests.call.finish(Code.INTERNAL, "the call's handler failed")
