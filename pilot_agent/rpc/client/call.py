"""One call on a connection of its own, read by the thread that wants its messages: HTTP/2 of a client.

The reader answers settings and pings, and counts windows, whenever it reads; where it waits for something
else, it reads beside that (`read_beside`). Requests are sent by another thread, as far as the server's
windows allow.
"""

import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final

import msgspec

from pilot_agent.http.dial import words
from pilot_agent.rpc import frames, headers
from pilot_agent.rpc.client.answer import Answer
from pilot_agent.rpc.client.link import Link
from pilot_agent.rpc.client.target import Target, TargetError
from pilot_agent.rpc.frames import ConnectionFaultError, Head
from pilot_agent.rpc.messages import MessageFaultError, MessageReader, prefix
from pilot_agent.rpc.status import Code

_STREAM: Final = 1
_WINDOW_BYTES: Final = 1 << 20
"""What the server may send before it must wait; a message that is larger opens it again as it comes."""


class Keepalive(msgspec.Struct, frozen=True, kw_only=True):
    """When a silent server is asked for a sign of life, and how long that may take."""

    interval_s: float = 30.0
    timeout_s: float = 10.0


class ClientCall:
    """`responses` is read by one thread, which connects first; the rest is for all."""

    def __init__(
        self,
        target: Target,
        path: str,
        metadata: Iterable[tuple[str, str | bytes]] = (),
        *,
        limit_bytes: int,
        keepalive: Keepalive | None = None,
    ) -> None:
        """Begin the call; `metadata` names are in lower case, those that end in `-bin` have bytes."""
        self.code, self.details = Code.OK, ""  # once `responses` has ended
        self._target, self._keepalive = target, keepalive or Keepalive()
        self._opening = headers.call(
            path, authority=target.called, is_secure=target.secured is not None, metadata=metadata
        )
        self._changed = threading.Condition()  # guards what follows
        self._is_over = False
        self._link: Link | None = None
        self._window_bytes = self._call_window_bytes = frames.DEFAULT_WINDOW_BYTES  # the server's
        self._initial_window_bytes = frames.DEFAULT_WINDOW_BYTES
        self._frame_bytes = frames.DEFAULT_FRAME_BYTES
        # The reader's own:
        self._dialed: queue.SimpleQueue[Link | TargetError | None] = queue.SimpleQueue()
        self._answer = Answer()
        self._frames = frames.FrameReader()
        self._reader = MessageReader(limit_bytes)
        self._messages: deque[bytes] = deque()
        self._unreported_bytes = 0
        self._heard_s = self._asked_s = 0.0
        self._was_greeted, self._goaway = False, ""

    def responses(self) -> Iterator[bytes]:
        """Yield what the server sends, each being read when it is asked for; then `code` tells the end."""
        if not self._connect():
            return
        while True:
            while self._messages:
                yield self._messages.popleft()
                self._give_back()
            if self._is_over:
                return
            self._read()

    def read_beside(self, descriptor: int) -> None:
        """Wait until there is something to read at the descriptor, serving the connection meanwhile.

        For the thread that reads `responses`, while it is busy with one of them.
        """
        while True:
            link = self._link
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            if link is not None and not self._is_over:
                waiting.register(link, select.POLLIN)
            ready = [one for one, _ in waiting.poll(self._keepalive.interval_s * 1000)]
            if descriptor in ready:
                return
            if ready:
                self._read()
            elif not self._is_over:
                self._keep_alive()

    def send_all(self, requests: Iterable[bytes]) -> None:
        """Send requests until there are none or the call is over."""
        for body in requests:
            if not self.send(body):
                return

    def send(self, body: bytes, *, is_last: bool = False) -> bool:
        """Send one request, waiting until connected and while the server wants no more; False: it is over."""
        whole, at = prefix(len(body)) + body, 0
        while at < len(whole):
            granted = self._grant(len(whole) - at)
            if granted is None:
                return False
            link, count = granted
            ends = is_last and at + count == len(whole)
            flags = frames.END_STREAM if ends else 0
            if not self._sent(link, frames.frame(frames.DATA, flags, _STREAM, whole[at : at + count])):
                return False
            at += count
        return True

    def cancel(self) -> None:
        """End the call; harmless when it has ended."""
        self._end(Code.CANCELLED, "cancelled by the agent")
        self._dialed.put(None)

    def close(self) -> None:
        """End the call and its connection; only for the thread that reads."""
        self.cancel()
        if self._link is not None:
            self._link.close()

    def _connect(self) -> bool:
        """Connect on a thread of its own, since nothing but its end ends a look-up of a name."""
        threading.Thread(target=self._dial, name="grpc-dial", daemon=True).start()
        found = self._dialed.get()
        if isinstance(found, TargetError):
            self._end(Code.UNAVAILABLE, str(found))
        if not isinstance(found, Link):
            return False
        self._heard_s = time.monotonic()
        try:
            found.be_patient(self._keepalive.interval_s)
            found.send(self._greeting())
        except OSError as error:
            self._lost(words(error))
        return True

    def _dial(self) -> None:
        try:
            link = self._target.dial()
        except TargetError as error:
            self._dialed.put(error)
            return
        except Exception as error:
            self._dialed.put(TargetError(f"connection error: {error}"))
            raise
        with self._changed:
            is_late = self._is_over
            if not is_late:
                self._link = link
        if is_late:
            link.close()
        else:
            self._dialed.put(link)

    def _greeting(self) -> bytes:
        ours = {
            frames.ENABLE_PUSH: 0,
            frames.INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
            frames.MAX_HEADER_LIST_SIZE: headers.LARGEST_HEADERS_BYTES,
        }
        more = frames.number(_WINDOW_BYTES - frames.DEFAULT_WINDOW_BYTES)
        return b"".join(
            (
                frames.PREFACE,
                frames.frame(frames.SETTINGS, 0, 0, frames.settings(ours)),
                frames.frame(frames.WINDOW_UPDATE, 0, 0, more),
                frames.headers(_STREAM, self._opening),
            )
        )

    def _grant(self, wanted_bytes: int) -> tuple[Link, int] | None:
        """Wait until something may be sent; return how much, None when the call is over."""
        with self._changed:
            while True:
                if self._is_over:
                    return None
                free = min(self._window_bytes, self._call_window_bytes)
                if self._heard_s and self._link is not None and free > 0:
                    break
                self._changed.wait()
            granted = min(free, wanted_bytes, self._frame_bytes)
            self._window_bytes -= granted
            self._call_window_bytes -= granted
            return self._link, granted

    def _sent(self, link: Link, data: bytes) -> bool:
        try:
            link.send(data)
        except OSError as error:
            self._lost(words(error))
            return False
        return True

    def _read(self) -> None:
        """Take in what has come, waiting for it; notice it when nothing comes for too long."""
        link = self._link
        assert link is not None, "read before connected"
        try:
            data = link.receive()
            if not data:
                self._lost("EOF")
                return
            self._heard_s, self._asked_s = time.monotonic(), 0.0
            for head, payload in self._frames.take(data):
                self._on_frame(head, payload)
            self._give_back()
        except TimeoutError:
            self._keep_alive()
        except OSError as error:
            self._lost(words(error))
        except ConnectionFaultError as fault:
            self._lost(str(fault))
        except MessageFaultError as fault:
            self._end(fault.code, fault.details)

    def _lost(self, why: str) -> None:
        """End the call without the server's word; the texts are those of Go's gRPC."""
        if self._goaway:
            text = f'connection error: desc = "error reading from server: {why}", {self._goaway}'
            self._end(Code.UNAVAILABLE, f"closing transport due to: {text}")
        elif self._was_greeted:
            self._end(Code.UNAVAILABLE, f"error reading from server: {why}")
        else:
            self._end(Code.UNAVAILABLE, f'connection error: desc = "error reading server preface: {why}"')

    def _keep_alive(self) -> None:
        now_s, link = time.monotonic(), self._link
        if link is None:
            return
        if self._asked_s:
            if now_s - self._asked_s >= self._keepalive.timeout_s:
                self._end(Code.UNAVAILABLE, "keepalive ping failed to receive ACK within timeout")
        elif now_s - self._heard_s >= self._keepalive.interval_s * 0.9:  # a timer may be early
            self._asked_s = now_s
            link.be_patient(self._keepalive.timeout_s)
            self._sent(link, frames.frame(frames.PING, 0, 0, b"\0" * 8))

    def _end(self, code: Code, details: str) -> None:
        """End the call with this status; the first end counts."""
        with self._changed:
            if self._is_over:
                return
            self._is_over, self.code, self.details = True, code, details
            link = self._link
            self._changed.notify_all()
        if link is not None:
            reset = frames.frame(frames.RST_STREAM, 0, _STREAM, frames.number(frames.CANCEL))
            goodbye = frames.frame(frames.GOAWAY, 0, 0, frames.number(0) + frames.number(frames.NO_ERROR))
            link.say_last(goodbye if self._answer.is_whole else reset + goodbye)

    def _on_frame(self, head: Head, payload: memoryview) -> None:
        if not self._was_greeted and head.kind != frames.SETTINGS:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        if self._answer.is_amid_headers and head.kind != frames.CONTINUATION:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "a header block is interrupted")
        handler = self._HANDLERS.get(head.kind)
        if handler is not None:  # unknown kinds are to be ignored
            if head.stream not in (0, _STREAM):
                raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"a frame for the stream {head.stream}")
            handler(self, head, payload)

    def _on_headers(self, head: Head, payload: memoryview) -> None:
        self._answer.take(head, bytes(payload))
        end = self._answer.end
        if end is not None:
            if self._reader.is_within and end[0] is Code.OK:
                end = Code.INTERNAL, "the response's last message is cut off"
            self._end(*end)

    def _on_reset(self, _: Head, payload: memoryview) -> None:
        self._end(*self._answer.reset(bytes(payload)))

    def _on_push(self, head: Head, payload: memoryview) -> None:
        del head, payload
        raise ConnectionFaultError(frames.PROTOCOL_ERROR, "a push that was not allowed")

    def _on_ping(self, head: Head, payload: memoryview) -> None:
        if not head.flags & frames.ACK:
            self._answer_with(frames.frame(frames.PING, frames.ACK, 0, bytes(payload)))

    def _on_data(self, head: Head, payload: memoryview) -> None:
        self._unreported_bytes += len(payload)
        if self._is_over:
            return
        data = frames.content(head.flags & frames.PADDED, bytes(payload)) if head.flags else payload
        if self._answer.is_call:
            self._messages.extend(self._reader.take(data))
        if head.flags & frames.END_STREAM:
            self._answer.is_whole = True
            self._end(Code.INTERNAL, "server closed the stream without sending trailers")

    def _give_back(self) -> None:
        """Open the windows by what was received, unless a message waits to be fetched."""
        link = self._link
        if self._unreported_bytes >= _WINDOW_BYTES // 2 and not self._messages and link is not None:
            more, self._unreported_bytes = frames.number(self._unreported_bytes), 0
            for_connection = frames.frame(frames.WINDOW_UPDATE, 0, 0, more)
            self._answer_with(for_connection + frames.frame(frames.WINDOW_UPDATE, 0, _STREAM, more))

    def _answer_with(self, data: bytes) -> None:
        if self._link is not None and not self._is_over:
            self._sent(self._link, data)

    def _on_settings(self, head: Head, payload: memoryview) -> None:
        self._was_greeted = True
        if head.flags & frames.ACK:
            return
        with self._changed:
            for key, value in frames.read_settings(bytes(payload)):
                if key == frames.INITIAL_WINDOW_SIZE:
                    self._call_window_bytes += value - self._initial_window_bytes
                    self._initial_window_bytes = value
                elif key == frames.MAX_FRAME_SIZE:
                    self._frame_bytes = value
            self._changed.notify_all()
        self._answer_with(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _on_window_update(self, head: Head, payload: memoryview) -> None:
        more = frames.read_number(payload) & frames.LARGEST_WINDOW_BYTES if len(payload) == 4 else 0
        if not more:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        with self._changed:
            if head.stream == 0:
                self._window_bytes += more
            elif head.stream == _STREAM:
                self._call_window_bytes += more
            if max(self._window_bytes, self._call_window_bytes) > frames.LARGEST_WINDOW_BYTES:
                raise ConnectionFaultError(frames.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")
            self._changed.notify_all()

    def _on_goaway(self, _: Head, payload: memoryview) -> None:
        """Go on if the server still serves this call: it ends when the server closes the connection."""
        if len(payload) < 8:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
        last, code = (
            frames.read_number(payload) & frames.LARGEST_WINDOW_BYTES,
            frames.read_number(payload[4:]),
        )
        debug = bytes(payload[8:]).decode(errors="replace").replace('"', "'")
        self._goaway = f'received prior goaway: code: {frames.error_name(code)}, debug data: "{debug}"'
        if last < _STREAM:
            self._end(Code.UNAVAILABLE, f"the connection is draining: {self._goaway}")

    # The class's and not the object's: bound methods would tie each call, and its connection, into a ring
    # that waits for the garbage collector.
    _HANDLERS: ClassVar[Mapping[int, Callable[["ClientCall", Head, memoryview], None]]] = {
        frames.DATA: _on_data,
        frames.HEADERS: _on_headers,
        frames.CONTINUATION: _on_headers,
        frames.RST_STREAM: _on_reset,
        frames.SETTINGS: _on_settings,
        frames.PUSH_PROMISE: _on_push,
        frames.PING: _on_ping,
        frames.GOAWAY: _on_goaway,
        frames.WINDOW_UPDATE: _on_window_update,
    }
