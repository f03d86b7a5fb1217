"""HTTP/2 frames as they stand on the wire. Source: RFC 9113, sections 4, 6 and 7."""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY = 0x9, 0xB, 0xC
_ERROR_NAMES: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

DEFAULT_TABLE_BYTES: Final = 4096

DEFAULT_WINDOW_BYTES: Final = 65_535
LARGEST_WINDOW_BYTES: Final = (1 << 31) - 1
DEFAULT_FRAME_BYTES: Final = 16_384
LARGEST_FRAME_BYTES: Final = (1 << 24) - 1
HEAD_BYTES: Final = 9

_HEAD: Final = struct.Struct("!BHBBI")
_NUMBER: Final = struct.Struct("!I")
_SETTING: Final = struct.Struct("!HI")


class ConnectionFaultError(Exception):
    """The peer broke the protocol: the connection ends with GOAWAY and this error code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Head(NamedTuple):
    """What each frame begins with."""

    length_bytes: int
    kind: int
    flags: int
    stream: int


def read_head(data: bytes | memoryview, at: int = 0) -> Head:
    """Return the head that the nine bytes at this offset are."""
    high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
    return Head(high << 16 | low, kind, flags, stream & LARGEST_WINDOW_BYTES)


def head(length_bytes: int, kind: int, flags: int, stream: int) -> bytes:
    """Return a frame's first nine bytes."""
    return _HEAD.pack(length_bytes >> 16, length_bytes & 0xFFFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def headers(stream: int, block: bytes) -> bytes:
    """Return the frames that open a request with this header block."""
    parts = [block[at : at + DEFAULT_FRAME_BYTES] for at in range(0, len(block), DEFAULT_FRAME_BYTES)]
    last = len(parts) - 1
    return b"".join(
        frame(CONTINUATION if at else HEADERS, END_HEADERS if at == last else 0, stream, part)
        for at, part in enumerate(parts)
    )


class FrameReader:
    """Cuts what a connection receives into frames; DATA that is cut off comes as two frames.

    So what follows is not put behind it, which would copy it once more.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._begun: Head | None = None  # what is still to come of a frame of DATA

    def take(self, data: bytes) -> Iterator[tuple[Head, memoryview]]:
        """Yield the frames that are whole now, with their payloads.

        Raises:
            ConnectionFaultError: a frame is larger than we allow.
        """
        whole = self._rest + data if self._rest else data
        view, at, size = memoryview(whole), 0, len(whole)
        if self._begun is not None and size:
            head, self._begun = self._begun, None
            at = min(head.length_bytes, size)
            yield self._cut(head, at), view[:at]
        while size - at >= HEAD_BYTES:
            head, start = read_head(whole, at), at + HEAD_BYTES
            if head.length_bytes > DEFAULT_FRAME_BYTES:
                raise ConnectionFaultError(FRAME_SIZE_ERROR, f"frame of {head.length_bytes} bytes")
            end = start + head.length_bytes
            if end > size:
                if head.kind != DATA or head.flags & PADDED or start == size:
                    break
                head, end = self._cut(head, size - start), size
            yield head, view[start:end]
            at = end
        self._rest = whole[at:]

    def _cut(self, head: Head, length_bytes: int) -> Head:
        """Return the head of so much of a frame; what is left of it is kept for the next time."""
        left_bytes = head.length_bytes - length_bytes
        if not left_bytes:
            return head
        self._begun = head._replace(length_bytes=left_bytes)
        return Head(length_bytes, head.kind, head.flags & ~END_STREAM, head.stream)


def error_name(code: int) -> str:
    """Return an error code's name as RFC 9113, section 7 writes it."""
    return _ERROR_NAMES[code] if code < len(_ERROR_NAMES) else f"unknown error code {code:#x}"


def number(value: int) -> bytes:
    """Return a 32-bit number: a window's increment, an error code, a stream."""
    return _NUMBER.pack(value)


def read_number(payload: bytes | memoryview) -> int:
    """Return the 32-bit number that the payload begins with."""
    return int(_NUMBER.unpack_from(payload)[0])


def settings(values: dict[int, int]) -> bytes:
    """Return the payload of a SETTINGS frame."""
    return b"".join(_SETTING.pack(key, value) for key, value in values.items())


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return what a SETTINGS frame says, in order.

    Raises:
        ConnectionFaultError: its length, or a value, is not allowed.
    """
    if len(payload) % _SETTING.size:
        raise ConnectionFaultError(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    found = list(_SETTING.iter_unpack(payload))
    for key, value in found:
        if key == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW_BYTES:
            raise ConnectionFaultError(FLOW_CONTROL_ERROR, f"initial window of {value} bytes")
        if key == MAX_FRAME_SIZE and not DEFAULT_FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
            raise ConnectionFaultError(PROTOCOL_ERROR, f"largest frame of {value} bytes")
        if key == ENABLE_PUSH and value > 1:
            raise ConnectionFaultError(PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
    return found


def content(flags: int, payload: bytes) -> bytes:
    """Return the payload of DATA or HEADERS without padding and priority.

    Raises:
        ConnectionFaultError: the padding is longer than the frame, or the frame is too short.
    """
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload or payload[0] >= end:
            raise ConnectionFaultError(PROTOCOL_ERROR, "padding longer than its frame")
        start, end = 1, end - payload[0]
    if flags & HAS_PRIORITY:
        start += 5
    if start > end:
        raise ConnectionFaultError(FRAME_SIZE_ERROR, "frame too short for its flags")
    return payload if (start, end) == (0, len(payload)) else payload[start:end]
