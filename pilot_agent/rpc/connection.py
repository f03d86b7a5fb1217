"""One client's connection: its thread reads frames and gives requests to their calls.

All state that two threads see is under one lock; writes have a lock of their own, since they may wait.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from pilot_agent.log import get_logger
from pilot_agent.rpc import frames, headers
from pilot_agent.rpc.call import Call
from pilot_agent.rpc.frames import ConnectionFaultError, Head

_BUFFER_BYTES: Final = 64 * 1024
_WINDOW_BYTES: Final = 4 << 20
"""What a client may send before it must wait: for each call, and for the connection as a whole."""

_MOST_PARTS: Final = 512  # of one write; the kernel's limit is 1,024
_MOST_RESETS: Final = 1000
"""Calls that a client may cancel beyond those that it lets end: more is an attack, and costs us the work."""

_log = get_logger("grpc")


class Host(Protocol):
    """Whoever serves the calls."""

    def begin(self, call: Call) -> None:
        """Serve this call, or finish it."""

    def ended(self, call: Call) -> None:
        """Forget this call; told once for each that was begun."""


class Connection:
    """Serve with `run`, on a thread of the connection's own; `close` ends it from any other."""

    def __init__(self, end: socket.socket, host: Host, *, limit_bytes: int) -> None:
        self.heard_s = time.monotonic()  # when the client was last heard of
        self.initial_window_bytes = frames.DEFAULT_WINDOW_BYTES
        self.frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._socket, self._host, self._limit_bytes = end, host, limit_bytes
        self._reader = end.makefile("rb", _BUFFER_BYTES)
        self._headers = headers.HeaderReader()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._write_lock = threading.Lock()
        self._window_bytes = frames.DEFAULT_WINDOW_BYTES
        self._unreported_bytes = 0
        self._calls: dict[int, Call] = {}
        self._newest = 0
        self._resets = 0
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

    def run(self) -> None:
        """Serve until the client is gone or breaks the protocol."""
        try:
            self._greet()
            while True:
                self._next_frame()
        except ConnectionFaultError as fault:
            _log.debug(f"connection ended: {fault}")
            self._say_goodbye(fault.code, str(fault))
        except (OSError, EOFError) as error:
            _log.debug(f"connection lost: {error}")
        finally:
            self._abandon()

    def close(self) -> None:
        """End the connection, its calls unfinished."""
        self._say_goodbye(frames.NO_ERROR, "server ends")
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def ping(self) -> None:
        """Ask for a sign of life; never waits."""
        self._write_soon(frames.frame(frames.PING, 0, 0, b"\0" * 8), patience_s=0.0)

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

    def write(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Write whole frames; return False when the connection is lost."""
        with self._write_lock:
            try:
                for at in range(0, len(parts), _MOST_PARTS):
                    self._write_all(parts[at : at + _MOST_PARTS])
            except OSError:
                with suppress(OSError):  # a part of a frame may have gone: nothing may follow it
                    self._socket.shutdown(socket.SHUT_RDWR)
                return False
        return True

    def finish(self, call: Call, block: bytes) -> None:
        """Write the trailers, unless the call has ended already."""
        with self._changed:
            if call.is_over:
                return
            call.is_over = True
            self._calls.pop(call.stream, None)
            self._resets -= self._resets > 0
            self._changed.notify_all()
        end = [frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, call.stream, block)]
        if not call.is_half_closed:  # what the client still sends is of no use
            end.append(frames.frame(frames.RST_STREAM, 0, call.stream, frames.number(frames.NO_ERROR)))
        self.write(end)
        self._host.ended(call)

    def _write_all(self, parts: Sequence[bytes | memoryview]) -> None:
        sent = self._socket.sendmsg(parts, (), socket.MSG_NOSIGNAL)
        for part in parts:
            if sent < len(part):
                self._socket.sendall(memoryview(part)[sent:], socket.MSG_NOSIGNAL)
            sent = max(sent - len(part), 0)

    def _greet(self) -> None:
        if self._exactly(len(frames.PREFACE)) != frames.PREFACE:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "the client does not speak HTTP/2")
        ours = {
            frames.INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
            frames.MAX_HEADER_LIST_SIZE: headers.LARGEST_HEADERS_BYTES,
        }
        more = frames.number(_WINDOW_BYTES - frames.DEFAULT_WINDOW_BYTES)
        self.write(
            [
                frames.frame(frames.SETTINGS, 0, 0, frames.settings(ours)),
                frames.frame(frames.WINDOW_UPDATE, 0, 0, more),
            ]
        )
        head, payload = self._read_frame()
        if head.kind != frames.SETTINGS or head.flags & frames.ACK:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        self._on_settings(head, payload)

    def _next_frame(self) -> None:
        head, payload = self._read_frame()
        handler = self._handlers.get(head.kind)
        if handler is not None:  # unknown kinds are to be ignored
            handler(head, payload)

    def _read_frame(self) -> tuple[Head, bytes]:
        head = frames.read_head(self._exactly(frames.HEAD_BYTES))
        self.heard_s = time.monotonic()
        if head.length_bytes > frames.DEFAULT_FRAME_BYTES:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"frame of {head.length_bytes} bytes")
        return head, self._exactly(head.length_bytes)

    def _exactly(self, count: int) -> bytes:
        data: bytes = self._reader.read(count)
        if len(data) < count:
            raise EOFError("closed by the client")
        return data

    def _on_headers(self, head: Head, payload: bytes) -> None:
        block = self._whole_block(head, payload)
        found = self._headers.read(block)
        if head.stream % 2 == 0:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"stream {head.stream} is not a client's")
        known = self._calls.get(head.stream)
        if known is not None:
            self._on_trailers(known, head)
        elif head.stream > self._newest:
            self._newest = head.stream
            self._begin(head, found)
        # else: trailers of a call that ended here while they were under way

    def _whole_block(self, head: Head, payload: bytes) -> bytes:
        block = frames.content(head.flags, payload)
        flags = head.flags
        while not flags & frames.END_HEADERS:
            more, fragment = self._read_frame()
            if more.kind != frames.CONTINUATION or more.stream != head.stream:
                raise ConnectionFaultError(frames.PROTOCOL_ERROR, "a header block is interrupted")
            block += fragment
            flags = more.flags
            if len(block) > headers.LARGEST_HEADERS_BYTES:
                raise ConnectionFaultError(
                    frames.ENHANCE_YOUR_CALM, f"headers of more than {len(block)} bytes"
                )
        return block

    def _on_trailers(self, call: Call, head: Head) -> None:
        if call.is_half_closed:
            raise ConnectionFaultError(
                frames.STREAM_CLOSED, f"headers on the half-closed stream {head.stream}"
            )
        if not head.flags & frames.END_STREAM:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "headers in the middle of a request")
        call.half_close()

    def _begin(self, head: Head, found: dict[str, str]) -> None:
        if ":path" not in found or ":method" not in found or ":scheme" not in found:
            self._reset(head.stream, frames.PROTOCOL_ERROR)
            return
        if found[":method"] != "POST" or not found.get("content-type", "").startswith("application/grpc"):
            flags = frames.END_HEADERS | frames.END_STREAM
            self.write([frames.frame(frames.HEADERS, flags, head.stream, headers.NOT_GRPC)])
            return
        call = Call(self, head.stream, found, self._limit_bytes)
        call.is_half_closed = bool(head.flags & frames.END_STREAM)
        with self._lock:
            self._calls[head.stream] = call
        self._host.begin(call)
        if call.is_half_closed and call.receiver is not None:
            call.receiver.half_closed()

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
            self.write(updates)

    def _on_reset(self, head: Head, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes")
        if head.stream == 0 or head.stream > self._newest:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, f"reset of the idle stream {head.stream}")
        call = self._calls.get(head.stream)
        if call is None:
            return
        self._resets += 1
        self._cancel(call)
        if self._resets > _MOST_RESETS:
            raise ConnectionFaultError(frames.ENHANCE_YOUR_CALM, f"{self._resets} calls cancelled")

    def _on_settings(self, head: Head, payload: bytes) -> None:
        if head.stream:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "SETTINGS on a stream")
        if head.flags & frames.ACK:
            if payload:
                raise ConnectionFaultError(frames.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            return
        with self._changed:
            for key, value in frames.read_settings(payload):
                if key == frames.INITIAL_WINDOW_SIZE:
                    self._resize_windows(value - self.initial_window_bytes)
                    self.initial_window_bytes = value
                elif key == frames.MAX_FRAME_SIZE:
                    self.frame_bytes = value
            self._changed.notify_all()
        self.write([frames.frame(frames.SETTINGS, frames.ACK, 0)])

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
            self.write([frames.frame(frames.PING, frames.ACK, 0, payload)])

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
        self.write([frames.frame(frames.RST_STREAM, 0, stream, frames.number(code))])

    def _cancel(self, call: Call) -> None:
        with self._changed:
            if call.is_over:
                return
            call.is_over = True
            self._calls.pop(call.stream, None)
            self._changed.notify_all()
        if call.receiver is not None:
            call.receiver.cancelled()
        self._host.ended(call)

    def _say_goodbye(self, code: int, text: str) -> None:
        last = frames.number(self._newest) + frames.number(code) + text.encode()
        self._write_soon(frames.frame(frames.GOAWAY, 0, 0, last), patience_s=0.5)

    def _write_soon(self, data: bytes, *, patience_s: float) -> None:
        """Write a small frame, unless the client reads nothing: then there is no sense in it."""
        if self._write_lock.acquire(timeout=patience_s):
            try:
                self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass
            finally:
                self._write_lock.release()

    def _abandon(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for call in list(self._calls.values()):
            self._cancel(call)
        with self._write_lock:
            self._reader.close()
            self._socket.close()
