"""One client's connection: its thread reads frames and gives requests to their calls.

All state that two threads see is under one lock; `writer` has one of its own, since writes may wait.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from pilot_agent.log import get_logger
from pilot_agent.rpc import frames, headers
from pilot_agent.rpc.call import Call
from pilot_agent.rpc.frames import ConnectionFaultError, Head
from pilot_agent.rpc.host import Host
from pilot_agent.rpc.inlet import Inlet, StoppedError
from pilot_agent.rpc.kept import KeptCall, KeptConnection
from pilot_agent.rpc.source import FrameSource
from pilot_agent.rpc.writer import Parts, Writer

_WINDOW_BYTES: Final = 4 << 20
"""What a client may send before it must wait: for each call, and for the connection as a whole."""

_PATIENCE_S: Final = 0.5  # with a client that reads nothing
_MOST_RESETS: Final = 1000
"""Calls that a client may cancel within the span, beyond those that it lets end: more is an attack."""

_RESETS_SPAN_S: Final = 60.0

_log = get_logger("grpc")


class Connection:
    """Serve with `run`, on a thread of the connection's own; `close` ends it from any other."""

    def __init__(
        self, end: socket.socket, host: Host, *, limit_bytes: int, kept: KeptConnection | None = None
    ) -> None:
        """`kept`: go on where another process was; its calls are resumed by `resume`."""
        self.gate = host.gate
        self.stopped = threading.Event()  # nobody reads any more
        self.initial_window_bytes = frames.DEFAULT_WINDOW_BYTES
        self.frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._socket, self._host, self._limit_bytes = end, host, limit_bytes
        self._source = FrameSource(Inlet(end, host.stop, kept.unread if kept is not None else b""))
        self._is_greeted = kept is not None
        self._headers = headers.HeaderReader()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._writer = Writer(end, kept.notice if kept is not None else b"")
        self._window_bytes, self._unreported_bytes = frames.DEFAULT_WINDOW_BYTES, 0
        self._calls: dict[int, Call] = {}
        self._newest = 0
        self._resets, self._resets_since_s = 0, time.monotonic()
        self._handlers: dict[int, Callable[[Head, bytes], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_unexpected,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_unexpected,
        }
        if kept is not None:
            self._restore(kept)

    @property
    def heard_s(self) -> float:
        """Return when the client was last heard of (monotonic)."""
        return self._source.heard_s

    def run(self) -> None:
        """Serve until the client is gone or breaks the protocol, or the connection is to go elsewhere."""
        is_ours = True
        try:
            if not self._is_greeted:
                self._greet()
            while True:
                head, payload = self._source.next()
                if (handler := self._handlers.get(head.kind)) is not None:  # unknown kinds are to be ignored
                    handler(head, payload)
        except StoppedError:
            is_ours = False
        except ConnectionFaultError as fault:
            _log.debug(f"connection ended: {fault}")
            self._say_goodbye(fault.code, str(fault))
        except (OSError, EOFError) as error:
            _log.debug(f"connection lost: {error}")
        finally:
            if is_ours:
                self.abandon()
            self.stopped.set()

    def keep(self, until_s: float) -> tuple[KeptConnection, int] | None:
        """Return what another process needs to go on, and the socket's descriptor, the caller's to close.

        None if the connection cannot be gone on with. To be called when it has `stopped` and the gate is
        closed; nothing is written after it. `until_s`: how long a frame under way may take (monotonic).
        """
        calls = [call.keep() for call in self._calls.values()]
        found = tuple(call for call in calls if call is not None)
        if not self._is_greeted or not self._handlers or len(found) < len(calls):
            return None
        if (frozen := self._writer.freeze(until_s)) is None:
            return None
        notice, descriptor = frozen
        table, table_bytes = self._headers.table()
        kept = KeptConnection(
            unread=self._source.unread,
            table=table,
            table_bytes=table_bytes,
            notice=notice,
            window_bytes=self._window_bytes,
            initial_window_bytes=self.initial_window_bytes,
            frame_bytes=self.frame_bytes,
            unreported_bytes=self._unreported_bytes,
            newest=self._newest,
            resets=self._resets,
            calls=found,
        )
        return kept, descriptor

    def _restore(self, kept: KeptConnection) -> None:
        self._headers.resume(kept.table, kept.table_bytes)
        self._window_bytes, self.initial_window_bytes = kept.window_bytes, kept.initial_window_bytes
        self.frame_bytes, self._unreported_bytes = kept.frame_bytes, kept.unreported_bytes
        self._newest, self._resets = kept.newest, kept.resets

    def resume(self, calls: Iterable[KeptCall]) -> None:
        """Go on with these calls; before `run`.

        Raises:
            ValueError: one of them cannot be understood; the connection must be closed then.
        """
        for kept in calls:
            call = Call(self, kept.stream, kept.headers, self._limit_bytes)
            call.resume(kept)
            self._calls[kept.stream] = call
            self._host.resume_call(call, kept.state)

    def close(self, *, patience_s: float = _PATIENCE_S) -> None:
        """End the connection, its calls unfinished."""
        self._say_goodbye(frames.NO_ERROR, "server ends", patience_s=patience_s)
        self._writer.shut()

    def release(self) -> None:
        """Close the socket; for a connection that `run` does not serve (any more)."""
        self._writer.close()
        self._handlers.clear()  # they know this object: nothing of it shall wait for the garbage collector

    def ping(self) -> None:
        """Ask for a sign of life; never waits."""
        self._writer.write_soon(frames.frame(frames.PING, 0, 0, b"\0" * 8), patience_s=0.0)

    def grant(self, call: Call, wanted_bytes: int) -> int:
        """Take up to that much from the windows, waiting for the first byte; 0 when the call is over."""
        with self._changed:
            while (free := min(call.window_bytes, self._window_bytes)) <= 0 and not call.is_over:
                self._changed.wait()
            if call.is_over:
                return 0
            granted = min(free, wanted_bytes)
            call.window_bytes -= granted
            self._window_bytes -= granted
            return granted

    def write_data(self, call: Call, granted_bytes: int, make: Callable[[], Parts]) -> bool:
        """Write the granted bytes in the frames that `make` returns; return False when the call is over."""
        if self._writer.data(call, make):
            return True
        with self._changed:
            self._window_bytes += granted_bytes
            self._changed.notify_all()
        return False

    def finish(self, call: Call, block: bytes) -> None:
        """Write the trailers, unless the call has ended already."""
        with self._changed:
            if call.is_over:
                return
            call.is_over = True
            self._calls.pop(call.stream, None)
            self._resets -= self._resets > 0
            self._changed.notify_all()
        self._writer.trailers(call, block)
        call.receiver = None
        self._host.ended(call)

    def _greet(self) -> None:
        self._source.read_preface()
        ours = {
            frames.INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
            frames.MAX_HEADER_LIST_SIZE: headers.LARGEST_HEADERS_BYTES,
        }
        more = frames.number(_WINDOW_BYTES - frames.DEFAULT_WINDOW_BYTES)
        self._writer.write(
            frames.frame(frames.SETTINGS, 0, 0, frames.settings(ours)),
            frames.frame(frames.WINDOW_UPDATE, 0, 0, more),
        )
        head, payload = self._source.next()
        if head.kind != frames.SETTINGS or head.flags & frames.ACK:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        self._on_settings(head, payload)
        self._is_greeted = True

    def _on_headers(self, head: Head, payload: bytes) -> None:
        block = self._source.whole_block(head, payload)
        found = self._headers.read(block)
        if head.stream % 2 == 0:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"stream {head.stream} is not a client's")
        known = self._calls.get(head.stream)
        if known is not None:
            self._on_trailers(known, head, found)
        elif head.stream > self._newest:
            self._newest = head.stream
            self._begin(head, found)
        elif any(name == ":path" for name, _ in found):
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"a new call on the old stream {head.stream}")
        # else: trailers of a call that ended here while they were under way

    def _on_trailers(self, call: Call, head: Head, found: headers.Pairs) -> None:
        if call.is_half_closed:
            raise ConnectionFaultError(
                frames.STREAM_CLOSED, f"headers on the half-closed stream {head.stream}"
            )
        if not head.flags & frames.END_STREAM:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "headers in the middle of a request")
        if headers.are_trailers(found):
            call.half_close()
        else:
            self._drop(call, frames.PROTOCOL_ERROR)

    def _begin(self, head: Head, pairs: headers.Pairs) -> None:
        found, is_whole = headers.request(pairs), bool(head.flags & frames.END_STREAM)
        if found is None:
            self._reset(head.stream, frames.PROTOCOL_ERROR)
            return
        if not headers.is_grpc(found):
            self._writer.answer(head.stream, headers.NOT_GRPC, is_open=not is_whole)
            return
        call = Call(self, head.stream, found, self._limit_bytes)
        call.is_half_closed = is_whole
        with self._lock:
            self._calls[head.stream] = call
        self._host.begin(call)
        receiver = call.receiver
        if call.is_half_closed and receiver is not None:
            receiver.half_closed()

    def _on_data(self, head: Head, payload: bytes) -> None:
        call = self._calls.get(head.stream)
        if head.stream == 0 or (call is None and head.stream > self._newest):
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"data on the idle stream {head.stream}")
        if call is not None and call.is_half_closed:
            raise ConnectionFaultError(frames.STREAM_CLOSED, f"data on the half-closed stream {head.stream}")
        self._give_back(call, len(payload))
        data = frames.content(head.flags & frames.PADDED, payload)
        if call is not None:
            call.take(data)
            if head.flags & frames.END_STREAM and not call.is_over:
                call.half_close()

    def _give_back(self, call: Call | None, count: int) -> None:
        """Open the windows again by what was received, in pieces of half a window."""
        self._unreported_bytes += count
        updates = []
        if self._unreported_bytes >= _WINDOW_BYTES // 2:
            more = frames.number(self._unreported_bytes)
            updates.append(frames.frame(frames.WINDOW_UPDATE, 0, 0, more))
            self._unreported_bytes = 0
        if call is not None:
            call.unreported_bytes += count
            if call.unreported_bytes >= _WINDOW_BYTES // 2:
                more = frames.number(call.unreported_bytes)
                updates.append(frames.frame(frames.WINDOW_UPDATE, 0, call.stream, more))
                call.unreported_bytes = 0
        if updates:
            self._writer.write(*updates)

    def _on_reset(self, head: Head, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes")
        if head.stream == 0 or head.stream > self._newest:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"reset of the idle stream {head.stream}")
        call = self._calls.get(head.stream)
        if call is None:
            return
        self._cancel(call)
        if self.heard_s - self._resets_since_s > _RESETS_SPAN_S:
            self._resets, self._resets_since_s = 0, self.heard_s
        self._resets += 1
        if self._resets > _MOST_RESETS:
            raise ConnectionFaultError(frames.ENHANCE_YOUR_CALM, f"{self._resets} calls cancelled")

    def _on_settings(self, head: Head, payload: bytes) -> None:
        if head.stream:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "SETTINGS on a stream")
        if head.flags & frames.ACK:
            if payload:
                raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            return
        said = frames.read_settings(payload)
        with self._changed:
            for key, value in said:
                if key == frames.INITIAL_WINDOW_SIZE:
                    self._resize_windows(value - self.initial_window_bytes)
                    self.initial_window_bytes = value
                elif key == frames.MAX_FRAME_SIZE:
                    self.frame_bytes = value
            self._changed.notify_all()
        smaller = (
            key == frames.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE_BYTES for key, value in said
        )
        self._writer.acknowledge(is_table_smaller=any(smaller))

    def _resize_windows(self, change_bytes: int) -> None:
        for call in self._calls.values():
            call.window_bytes += change_bytes
            if call.window_bytes > frames.LARGEST_WINDOW_BYTES:
                raise ConnectionFaultError(frames.FLOW_CONTROL_ERROR, f"window of {call.window_bytes} bytes")

    def _on_ping(self, head: Head, payload: bytes) -> None:
        if head.stream:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
        if not head.flags & frames.ACK:
            self._writer.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_window_update(self, head: Head, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
        if head.stream > self._newest:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"window of the idle stream {head.stream}")
        more = frames.read_number(payload) & frames.LARGEST_WINDOW_BYTES
        with self._changed:
            call = self._calls.get(head.stream)
            if head.stream == 0:
                if not more:
                    raise ConnectionFaultError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
                self._window_bytes += more
                if self._window_bytes > frames.LARGEST_WINDOW_BYTES:
                    raise ConnectionFaultError(
                        frames.FLOW_CONTROL_ERROR, f"window of {self._window_bytes} bytes"
                    )
            elif call is not None:
                call.window_bytes += more
            self._changed.notify_all()
        if call is not None and not more:
            self._drop(call, frames.PROTOCOL_ERROR)
        elif call is not None and call.window_bytes > frames.LARGEST_WINDOW_BYTES:
            self._drop(call, frames.FLOW_CONTROL_ERROR)

    def _on_priority(self, head: Head, payload: bytes) -> None:
        if head.stream == 0:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "PRIORITY on no stream")
        if len(payload) != 5:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes")

    def _on_goaway(self, head: Head, _: bytes) -> None:
        """Go on: the client ends the connection when its calls are done."""
        if head.stream:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "GOAWAY on a stream")

    def _on_unexpected(self, head: Head, _: bytes) -> None:
        raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"unexpected frame of kind {head.kind}")

    def _drop(self, call: Call, code: int) -> None:
        self._cancel(call)
        self._reset(call.stream, code)

    def _reset(self, stream: int, code: int) -> None:
        self._writer.write(frames.frame(frames.RST_STREAM, 0, stream, frames.number(code)))

    def _cancel(self, call: Call) -> None:
        with self._changed:
            if call.is_over:
                return
            call.is_over = True
            self._calls.pop(call.stream, None)
            self._changed.notify_all()
        receiver, call.receiver = call.receiver, None
        if receiver is not None:
            receiver.cancelled()
        self._host.ended(call)

    def _say_goodbye(self, code: int, text: str, *, patience_s: float = _PATIENCE_S) -> None:
        last = frames.number(self._newest) + frames.number(code) + text.encode()
        self._writer.write_soon(frames.frame(frames.GOAWAY, 0, 0, last), patience_s=patience_s)

    def abandon(self) -> None:
        """End the connection and all calls; for who runs it, or never will."""
        self._writer.shut()
        for call in list(self._calls.values()):
            self._cancel(call)
        self.release()
