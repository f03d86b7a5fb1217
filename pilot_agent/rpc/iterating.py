"""Serves a call with a thread of its own that iterates over requests and yields responses."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

from pilot_agent.rpc.call import Call, Method
from pilot_agent.rpc.status import Code


class CallEnded(Exception):  # noqa: N818  # an outcome that a handler chooses, like StopIteration
    """Raised by a handler: the call ends with this status."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class Requests:
    """The requests of a call, in order. Iteration ends when the client half-closes or is gone."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.is_cancelled = False
        self.on_cancel: Callable[[], None] = lambda: None
        self._queue: Final[queue.SimpleQueue[bytes | None]] = queue.SimpleQueue()

    def message(self, body: bytes) -> None:
        self._queue.put(body)

    def half_closed(self) -> None:
        self._queue.put(None)

    def cancelled(self) -> None:
        self.is_cancelled = True
        self._queue.put(None)
        self.on_cancel()

    def __iter__(self) -> Iterator[bytes]:
        while (body := self._queue.get()) is not None:
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
