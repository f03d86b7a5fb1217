"""One call: messages out of DATA frames, messages into them, and the status that ends it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from pilot_agent.rpc import frames, headers
from pilot_agent.rpc.gate import Gate
from pilot_agent.rpc.kept import KeptCall
from pilot_agent.rpc.messages import PREFIX_BYTES, MessageFaultError, MessageReader, prefix
from pilot_agent.rpc.status import Code

if TYPE_CHECKING:
    from pilot_agent.rpc.connection import Connection

_GRANT_BYTES: Final = 1 << 19
"""Sent in one go at most, so that other calls of the connection get their turn."""


class Receiver(Protocol):
    """What takes a call's requests: called on the connection's thread, so it must not wait for long."""

    def message(self, body: bytes) -> None:
        """Take one request."""

    def half_closed(self) -> None:
        """No more requests come; the client waits for the end."""

    def cancelled(self) -> None:
        """The client is gone, or broke the rules; nothing can be sent any more."""


@runtime_checkable
class Lasting(Protocol):
    """A receiver whose call another process can go on with."""

    def keep(self) -> bytes | None:
        """Return what its method's successor needs; None if the call cannot go on.

        Called when no request comes any more, and nobody is within the call's `turn`.
        """


class Call:
    """A call's way back. Thread-safe, but for `send`, which one thread at a time may call."""

    def __init__(
        self, connection: "Connection", stream: int, request_headers: Mapping[str, str], limit_bytes: int
    ) -> None:
        self.headers = request_headers
        self.stream = stream
        self.window_bytes = (
            connection.initial_window_bytes
        )  # that the client lets us send; the connection's lock
        self.unreported_bytes = 0  # received and not given back to the client's window yet
        self.is_over = False  # ended by either side; the connection's lock
        self.is_half_closed = False
        self.has_begun = False  # the response's headers are written; the writer's lock
        self.receiver: Receiver | None = None  # let go of at the end: each holds the other, and sockets
        self._connection = connection
        self.limit_bytes = limit_bytes
        self._reader = MessageReader(limit_bytes)

    @property
    def turn(self) -> Gate:
        """Return the context in which a method answers, so that it is not left half done.

        For those that last: around what is noted of a response together with `send`, and around `finish`.
        """
        return self._connection.gate

    def keep(self) -> KeptCall | None:
        """Return what another process needs to go on with the call; None if it cannot."""
        state = self.receiver.keep() if isinstance(self.receiver, Lasting) else None
        if state is None or self.is_half_closed:
            return None
        return KeptCall(
            stream=self.stream,
            headers=dict(self.headers),
            window_bytes=self.window_bytes,
            unreported_bytes=self.unreported_bytes,
            has_begun=self.has_begun,
            message=self._reader.keep(),
            state=state,
        )

    def resume(self, kept: KeptCall) -> None:
        """Go on where the call was in another process."""
        self.window_bytes, self.unreported_bytes = kept.window_bytes, kept.unreported_bytes
        self.has_begun = kept.has_begun
        self._reader.resume(kept.message)

    def send(self, body: bytes) -> bool:
        """Write one response, waiting while the client wants no more; return whether it was taken.

        Not for the connection's thread: it is the one that hears that the client wants more.
        """
        head, at, size = prefix(len(body)), 0, PREFIX_BYTES + len(body)
        view = memoryview(body)
        while at < size:
            granted = self._connection.grant(self, min(size - at, _GRANT_BYTES))
            if not granted or not self._connection.write_data(
                self, granted, partial(self._frames, head, view, at, granted)
            ):
                return False
            at += granted
        return True

    def finish(self, code: Code = Code.OK, details: str = "") -> None:
        """End the call with this status; nothing happens if it has ended."""
        self._connection.finish(self, headers.trailers(code, details))

    def take(self, data: bytes) -> None:
        """Take the content of a DATA frame; hand on the messages that are complete."""
        receiver = self.receiver
        if receiver is None:  # ended by its handler at this moment
            return
        try:
            for body in self._reader.take(data):
                receiver.message(body)
                if self.is_over:
                    return
        except MessageFaultError as fault:
            self._refuse(fault.code, fault.details)

    def half_close(self) -> None:
        """Note that the client sends nothing more."""
        self.is_half_closed = True
        receiver = self.receiver  # `finish` lets go of it
        if self._reader.is_within and not self.is_over:
            self.finish(Code.INTERNAL, "the request's last message is cut off")
        if receiver is not None:
            receiver.half_closed()

    def _refuse(self, code: Code, details: str) -> None:
        receiver = self.receiver
        self.finish(code, details)
        if receiver is not None:
            receiver.cancelled()

    def _frames(self, head: bytes, body: memoryview, at: int, count: int) -> list[bytes | memoryview]:
        """Return `count` bytes of head and body from `at` on, cut into frames; the body is not copied."""
        found: list[bytes | memoryview] = []
        end, shift = at + count, len(head)
        while at < end:
            until = min(end, at + self._connection.frame_bytes)
            found.append(frames.head(until - at, frames.DATA, 0, self.stream))
            if at < shift:
                found.append(head[at:until])
            if until > shift:
                found.append(body[max(at - shift, 0) : until - shift])
            at = until
        return found


Method = Callable[[Call], Receiver]
"""Begins to serve a call; runs on the connection's thread."""

Resumption = Callable[[Call, bytes], Receiver]
"""Goes on with a call that another process began, by what its receiver has kept.

Raises ValueError if it cannot be understood.
"""
