"""Channels that outlive both of their ends.

A channel is a SOCK_SEQPACKET pair for one directed pair of actors, made by the supervisor before it
forks anybody. The supervisor keeps all ends, so what is in the kernel's queue survives the SIGKILL of
its reader, a sender never sees a broken pipe, and there is nothing to reconnect.

`O_NONBLOCK` lives on the file description that all processes share: it is never set here;
MSG_DONTWAIT says it for one call.
"""

import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from actors.runtime import codec
from actors.runtime.codec import CHUNK_BYTES, FIRST, HEADER_BYTES, NEXT, FrameError, Header
from actors.runtime.roles import CHANNELS, Role
from pilot_agent.log import get_logger

_log = get_logger()

# Plain numbers: an operation on the enum costs 0.7 µs, and each packet has three.
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_NOSIGNAL: Final = int(socket.MSG_NOSIGNAL)
_TRUNC: Final = int(socket.MSG_TRUNC)

MOST_DESCRIPTORS: Final = 64
"""Beside one message."""

Packet = tuple[bytes | memoryview, ...]


class ChannelTable(msgspec.Struct, frozen=True):
    """The file descriptors of every channel's two ends, as plain numbers: (write end, read end)."""

    ends: dict[tuple[Role, Role], tuple[int, int]]

    @classmethod
    def make(cls, pairs: Iterable[tuple[Role, Role]] = CHANNELS) -> "ChannelTable":
        """Make all channels. To be called once, before the first fork."""
        return cls({pair: seqpacket_pair() for pair in pairs})

    def outbound(self, role: Role) -> dict[Role, int]:
        """Return the write ends of `role`, by receiver."""
        return {to: ends[0] for (sender, to), ends in self.ends.items() if sender is role}

    def inbound(self, role: Role) -> dict[Role, int]:
        """Return the read ends of `role`, by sender."""
        return {sender: ends[1] for (sender, to), ends in self.ends.items() if to is role}


def seqpacket_pair() -> tuple[int, int]:
    """Return the two descriptors of a new pair, close-on-exec, owned by the caller."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return one.detach(), other.detach()


class Sender:
    """The write end of a channel in one process. Never blocks its caller; keeps the order.

    What the kernel does not take at once queues here, without a bound, and is drained by a thread that
    lives from the first such moment on. Requests may queue (they are small); whoever sends large bodies
    waits for credit in its own protocol.
    """

    def __init__(self, descriptor: int, *, incarnation: int) -> None:
        """Own `descriptor`."""
        self._socket = socket.socket(fileno=descriptor)
        self._incarnation = incarnation
        self._sequence = 0
        self._lock = threading.Lock()
        self._queue: deque[tuple[Packet, tuple[int, ...]]] = deque()
        self._more = threading.Condition(self._lock)
        self._writer: threading.Thread | None = None

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send or queue one message; `descriptors` travel with its first packet and are then closed."""
        head, body = codec.encode(message)
        with self._lock:
            self._sequence += 1
            packets = Packets(head, body, self._incarnation, self._sequence)
            passed = tuple(descriptors)
            for packet in packets:
                if self._queue or not self._try(packet, passed):
                    self._enqueue(packet, passed)
                passed = ()

    def close(self) -> None:
        """Close the descriptor; what is queued in this process is lost."""
        self._socket.close()

    def queued(self) -> int:
        """Return how many packets wait in this process."""
        return len(self._queue)

    def _try(self, packet: Packet, descriptors: tuple[int, ...]) -> bool:
        try:
            _sendmsg(self._socket, packet, descriptors, _DONTWAIT)
        except BlockingIOError:
            return False
        _close_all(descriptors)
        return True

    def _enqueue(self, packet: Packet, descriptors: tuple[int, ...]) -> None:
        self._queue.append((packet, descriptors))
        if self._writer is None:
            self._writer = threading.Thread(target=self._drain, name="channel-writer", daemon=True)
            self._writer.start()
        self._more.notify()

    def _drain(self) -> None:
        while True:
            with self._lock:
                while not self._queue:
                    self._more.wait()
                packet, descriptors = self._queue[0]
            try:
                _sendmsg(self._socket, packet, descriptors, 0)
            except OSError as error:  # the control channel's other end is gone: the supervisor is
                _log.debug(f"channel writer ends: {error}")
                return
            _close_all(descriptors)
            del packet  # it may be a view into a large body
            with self._lock:
                self._queue.popleft()


class Packets:
    """Cuts a frame into packets, one at a time, copying nothing of the body."""

    def __init__(self, head: bytes, body: bytes, incarnation: int, sequence: int) -> None:
        self._content = (memoryview(head), memoryview(body))
        self._head_bytes, self._total = len(head), len(head) + len(body)
        self._incarnation, self._sequence = incarnation, sequence
        self._at = -1  # content bytes that are cut off already; -1: not even the first packet is

    def __iter__(self) -> "Packets":
        return self

    def __next__(self) -> Packet:
        if self._at >= self._total:
            raise StopIteration
        kind, at = (FIRST, 0) if self._at < 0 else (NEXT, self._at)
        end = min(at + CHUNK_BYTES, self._total)
        self._at = end
        header = Header(
            codec.FORMAT_VERSION,
            kind,
            self._incarnation,
            self._sequence,
            self._head_bytes,
            self._total - self._head_bytes,
        )
        head, body = self._content
        from_head = head[at : min(end, self._head_bytes)]
        from_body = body[max(at - self._head_bytes, 0) : max(end - self._head_bytes, 0)]
        return (codec.pack_header(header), from_head, from_body)


class Receiver:
    """The read end of a channel in one process: blocks for the next whole message.

    Packets of a frame whose first packet another process took, and frames that a killed sender left
    unfinished, are dropped.
    """

    def __init__(self, descriptor: int) -> None:
        """Own `descriptor`."""
        self.socket = socket.socket(fileno=descriptor)
        self._header = bytearray(HEADER_BYTES)
        self._scratch = bytearray(CHUNK_BYTES)
        self._frame: _Frame | None = None
        self._passed: list[int] = []

    def receive(self, flags: int = 0) -> tuple[object, tuple[int, ...]] | None:
        """Return the next message and the descriptors that came with it; None at the end of the channel.

        Raises:
            FrameError: a whole frame that is of no use (unknown type, wrong fields); the next call goes on.
            BlockingIOError: `flags` has MSG_DONTWAIT and no whole message is here yet.
        """
        while True:
            frame = self._packet(flags)
            if frame is None:
                continue
            passed, self._passed = tuple(self._passed), []
            if frame is _END:
                _close_all(passed)
                return None
            try:
                return frame.message(), passed
            except FrameError:
                _close_all(passed)
                raise

    def close(self) -> None:
        """Close the descriptor."""
        self.socket.close()

    def _packet(self, flags: int) -> "_Frame | None":
        frame = self._frame
        free = frame.free() if frame is not None else memoryview(b"")
        buffers = (self._header, free, self._scratch) if frame is not None else (self._header, self._scratch)
        try:
            count, ancillary, got_flags, _ = self.socket.recvmsg_into(buffers, _ANCILLARY_BYTES, flags)
        except ConnectionResetError:  # the other end was closed before it had read all that it got
            return _END
        self._passed += _descriptors(ancillary)
        if count == 0:
            return _END
        content_bytes = count - HEADER_BYTES
        try:
            header = codec.unpack_header(memoryview(self._header)[:count])
            if got_flags & _TRUNC or content_bytes > header.head_bytes + header.body_bytes:
                raise FrameError(f"packet of {count} bytes is larger than its frame")
        except FrameError as error:
            _log.warn(f"channel: {error}: packet dropped")
            return None
        if header.kind == FIRST:
            if frame is not None:
                _log.debug("channel: unfinished message of a sender that ended: dropped")
            in_place = min(content_bytes, len(free))
            frame = _Frame(header)
            frame.take(free[:in_place])
            frame.take(memoryview(self._scratch)[: content_bytes - in_place])
        elif frame is not None and frame.is_continued_by(header) and content_bytes <= len(free):
            frame.advance(content_bytes)
        else:
            _log.debug("channel: rest of a message whose beginning the predecessor took: skipped")
            return None
        self._frame = None if frame.complete() else frame
        return frame if frame.complete() else None


_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * MOST_DESCRIPTORS)


class _Frame:
    """A frame of which some packets are here; the next is received right into its place."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._buffer = bytearray(header.head_bytes + header.body_bytes)
        self._at = 0

    def free(self) -> memoryview:
        """Return the place for the next packet's content."""
        return memoryview(self._buffer)[self._at : self._at + CHUNK_BYTES]

    def is_continued_by(self, header: Header) -> bool:
        return header._replace(kind=FIRST) == self._header

    def take(self, content: memoryview) -> None:
        self._buffer[self._at : self._at + len(content)] = content
        self._at += len(content)

    def advance(self, count: int) -> None:
        self._at += count

    def complete(self) -> bool:
        return self._at >= len(self._buffer)

    def message(self) -> object:
        view = memoryview(self._buffer)
        head = bytes(view[: self._header.head_bytes])
        return codec.decode(head, bytes(view[self._header.head_bytes :]))


_END: Final = _Frame(Header(codec.FORMAT_VERSION, FIRST, 0, 0, 0, 0))


class ReaderThread:
    """Reads one channel for ever and hands every message to `deliver`, on its own thread."""

    def __init__(self, name: str, descriptor: int, deliver: Callable[[object], None]) -> None:
        self._receiver = Receiver(descriptor)
        self._deliver = deliver
        self._thread = threading.Thread(target=self._run, name=f"from-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                received = self._receiver.receive()
            except FrameError as error:
                _log.warn(f"channel: {error}: skipped")
                continue
            if received is None:
                return
            message, descriptors = received
            if isinstance(message, msgspec.Struct) and "descriptors" in message.__struct_fields__:
                msgspec.structs.force_setattr(message, "descriptors", descriptors)
            else:
                _close_all(descriptors)
            self._deliver(message)
            del received, message  # it may hold a large body while this thread waits for the next


def _sendmsg(end: socket.socket, packet: Packet, descriptors: tuple[int, ...], flags: int) -> None:
    ancillary = (
        [
            (
                socket.SOL_SOCKET,
                socket.SCM_RIGHTS,
                b"".join(fd.to_bytes(4, sys.byteorder) for fd in descriptors),
            )
        ]
        if descriptors
        else []
    )
    end.sendmsg(packet, ancillary, flags | _NOSIGNAL)


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(data) - len(data) % 4
            found += [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, whole, 4)]
    return found


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
