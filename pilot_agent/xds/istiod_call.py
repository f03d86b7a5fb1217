"""One stream with istiod, without gRPC's threads: who reads waits in gRPC's core itself.

gRPC's public call object moves each message between a thread that polls, one that takes requests and the
one that reads: five wake-ups a round trip, half of the process's time. The *segregated* call beneath it,
which `grpc.experimental`'s single-threaded streams use, is polled by its reader. It is not public, so
setup.cfg admits the versions of grpcio that the tests have seen, and no later ones.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled

from pilot_agent.rpc import Code

_BEGUN, _STATUS, _HEADERS, _SENT, _RECEIVED = range(1, 6)  # tags of what gRPC is asked to do
_NO_FLAGS: Final = 0


class IstiodCall:
    """`responses` is read by one thread, `send_all` runs on another; `cancel` is for all."""

    def __init__(
        self, channel: grpc.Channel, method: str, metadata: tuple[tuple[str, str | bytes], ...]
    ) -> None:
        """Begin the stream, fail-fast."""
        self.code, self.details = Code.OK, ""  # once `responses` has ended
        self._is_over = False
        self._due = {_BEGUN, _STATUS, _HEADERS}  # asked of gRPC's core and not told to be done
        self._changed = threading.Condition()  # guards `_due` and `_is_over`
        begin = (
            ((cygrpc.SendInitialMetadataOperation(metadata, _NO_FLAGS),), _BEGUN),
            ((cygrpc.ReceiveStatusOnClientOperation(_NO_FLAGS),), _STATUS),
            ((cygrpc.ReceiveInitialMetadataOperation(_NO_FLAGS),), _HEADERS),
        )
        inner: Any = channel._channel  # type: ignore[attr-defined]  # noqa: SLF001  # see above
        self._call = inner.segregated_call(
            cygrpc.PropagationConstants.GRPC_PROPAGATE_DEFAULTS,
            method.encode(),
            None,  # host
            None,  # deadline
            metadata,
            None,  # credentials of the call
            begin,
            None,  # census
            None,  # registered method
        )

    def send_all(self, requests: Iterable[bytes]) -> None:
        """Send requests, one at a time, until there are none or the stream is over."""
        for body in requests:
            with self._changed:
                while _SENT in self._due and not self._is_over:
                    self._changed.wait()
                if self._is_over or not self._ask(cygrpc.SendMessageOperation(body, _NO_FLAGS), _SENT):
                    return

    def responses(self) -> Iterator[bytes]:
        """Yield what istiod sends, the next being read when it is asked for; then `code` tells the end."""
        self._ask_for_message()
        while self._is_awaiting():
            message = self._next_event()
            if message is not None:
                yield message
                del message  # else it would be held until the next one comes
                self._ask_for_message()

    def cancel(self) -> None:
        """End the stream; harmless when it has ended."""
        self._call.cancel(Code.CANCELLED.value, "cancelled by the agent")

    def close(self) -> None:
        """End the stream and hear gRPC's core out, for which closing the channel waits.

        Only for the thread that reads.
        """
        self.cancel()
        while self._is_awaiting():
            self._next_event()

    def _is_awaiting(self) -> bool:
        with self._changed:
            return bool(self._due)

    def _ask_for_message(self) -> None:
        with self._changed:
            self._ask(cygrpc.ReceiveMessageOperation(_NO_FLAGS), _RECEIVED)

    def _ask(self, operation: Any, tag: int) -> bool:  # Any: a type of the compiled module
        """Have gRPC's core do this; return False when the stream is over."""
        if self._call.operate((operation,), tag):
            self._due.add(tag)
            return True
        return False

    def _next_event(self) -> bytes | None:
        """Wait for what gRPC's core has done; return the message if it has received one."""
        event = self._call.next_event()
        with self._changed:
            self._due.discard(event.tag)
            if event.tag == _STATUS:
                self._note_end(event.batch_operations[0])
            if event.tag in (_SENT, _STATUS):
                self._changed.notify_all()
        message: bytes | None = event.batch_operations[0].message() if event.tag == _RECEIVED else None
        return message

    def _note_end(self, status: Any) -> None:  # Any: a type of the compiled module
        details = status.details()
        self.code, self._is_over = Code(status.code()), True
        self.details = details.decode(errors="replace") if isinstance(details, bytes) else details or ""
