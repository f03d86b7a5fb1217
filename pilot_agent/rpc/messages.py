"""gRPC's messages inside the DATA of a call. Source: gRPC over HTTP2, "Length-Prefixed-Message"."""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from pilot_agent.rpc.kept import KeptMessage
from pilot_agent.rpc.status import Code

_PREFIX: Final = struct.Struct("!BI")  # compressed or not, length
PREFIX_BYTES: Final = _PREFIX.size
_CRUMB_BYTES: Final = 4096


class MessageFaultError(Exception):
    """A message cannot be taken: the call ends with this status."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def prefix(length_bytes: int) -> bytes:
    """Return what stands before a message that is not compressed."""
    return _PREFIX.pack(0, length_bytes)


class MessageReader:
    """Puts messages together from pieces of DATA. What waits costs little more than its bytes."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes` bounds one message."""
        self._limit_bytes = limit_bytes
        self._head = b""
        self._missing_bytes: int | None = None  # of the message that is under way
        self._parts: list[bytes | memoryview] = []
        self._crumbs = bytearray()  # behind the parts: many small pieces would cost more than they hold

    @property
    def is_within(self) -> bool:
        """Return whether a message has begun and not ended."""
        return bool(self._head) or self._missing_bytes is not None

    def keep(self) -> KeptMessage:
        """Return what another reader needs to go on."""
        return KeptMessage(self._head, self._missing_bytes, b"".join((*self._parts, self._crumbs)))

    def resume(self, kept: KeptMessage) -> None:
        """Go on where another reader was."""
        self._head, self._missing_bytes = kept.head, kept.missing_bytes
        self._parts, self._crumbs = [kept.begun] if kept.begun else [], bytearray()

    def take(self, data: bytes | memoryview) -> Iterable[bytes]:
        """Return the messages that this piece completes; to be iterated over at once.

        Raises:
            MessageFaultError: one is compressed or too large; also while it is iterated over.
        """
        size = len(data)
        if self._missing_bytes is not None:
            if size < self._missing_bytes:  # the middle of a large one
                self._missing_bytes -= size
                self._keep(memoryview(data))
                return ()
        elif (
            PREFIX_BYTES < size <= self._limit_bytes
            and not self._head
            and _PREFIX.unpack_from(data) == (0, size - PREFIX_BYTES)
        ):  # by far the most: one that is small and whole
            return (bytes(data[PREFIX_BYTES:]),)
        return self._taken(data)

    def _taken(self, data: bytes | memoryview) -> Iterator[bytes]:
        left = memoryview(data)
        while left or self._missing_bytes == 0:
            if self._missing_bytes is None:
                left = self._take_head(left)
                continue
            part, left = left[: self._missing_bytes], left[self._missing_bytes :]
            self._missing_bytes -= len(part)
            self._keep(part)
            if not self._missing_bytes:
                self._missing_bytes = None
                yield self._whole()

    def _keep(self, part: memoryview) -> None:
        if len(part) < _CRUMB_BYTES:
            self._crumbs += part
            return
        if self._crumbs:
            self._parts.append(bytes(self._crumbs))
            self._crumbs.clear()
        self._parts.append(part)

    def _whole(self) -> bytes:
        whole = b"".join((*self._parts, self._crumbs)) if self._parts else bytes(self._crumbs)
        self._parts, self._crumbs = [], bytearray()
        return whole

    def _take_head(self, data: memoryview) -> memoryview:
        wanted = PREFIX_BYTES - len(self._head)
        self._head += data[:wanted]
        if len(self._head) == PREFIX_BYTES:
            is_compressed, length = _PREFIX.unpack(self._head)
            self._head = b""
            if is_compressed:
                raise MessageFaultError(
                    Code.UNIMPLEMENTED, "compressed messages are not understood: use identity"
                )
            if length > self._limit_bytes:
                text = f"grpc: received message larger than max ({length} vs. {self._limit_bytes})"
                raise MessageFaultError(Code.RESOURCE_EXHAUSTED, text)
            self._missing_bytes = length
        return data[wanted:]
