"""What a server says about a call in headers and trailers, and the status that this is.

Source: gRPC over HTTP2, "Responses"; HTTP to gRPC status code mapping.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

from pilot_agent.rpc import frames, headers
from pilot_agent.rpc.frames import ConnectionFaultError, Head
from pilot_agent.rpc.status import Code

End = tuple[Code, str]

_OF_HTTP: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
_OF_RESETS: Final = {
    frames.REFUSED_STREAM: Code.UNAVAILABLE,
    frames.CANCEL: Code.CANCELLED,
    frames.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    frames.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}
_NUMBERS: Final = frozenset(Code)


class Answer:
    """The header blocks of one call."""

    def __init__(self) -> None:
        self.is_call = False  # the server answers as gRPC does: what follows are messages
        self.is_whole = False  # the server has ended the stream
        self.end: End | None = None
        self._reader = headers.HeaderReader()
        self._block: bytes | None = None  # that is under way
        self._ends_stream = False

    @property
    def is_amid_headers(self) -> bool:
        """Return whether the next frame must be a CONTINUATION."""
        return self._block is not None

    def take(self, head: Head, payload: bytes) -> None:
        """Take a HEADERS or CONTINUATION frame.

        Raises:
            ConnectionFaultError: it breaks the protocol.
        """
        if head.kind == frames.HEADERS:
            self._block = frames.content(head.flags & (frames.PADDED | frames.HAS_PRIORITY), payload)
            self._ends_stream = bool(head.flags & frames.END_STREAM)
        elif self._block is None:
            raise ConnectionFaultError(frames.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        else:
            self._block += payload
        if len(self._block) > headers.LARGEST_HEADERS_BYTES:
            raise ConnectionFaultError(frames.ENHANCE_YOUR_CALM, f"headers of {len(self._block)} bytes")
        if head.flags & frames.END_HEADERS:
            block, self._block = self._block, None
            self._read(dict(reversed(self._reader.read(block))))

    def reset(self, payload: bytes) -> End:
        """Return what a RST_STREAM means."""
        self.is_whole = True
        code = frames.read_number(payload) if len(payload) == 4 else frames.PROTOCOL_ERROR
        name = frames.error_name(code)
        return _OF_RESETS.get(code, Code.INTERNAL), f"stream terminated by RST_STREAM with error code: {name}"

    def _read(self, found: dict[str, str]) -> None:
        if not self.is_call and ":status" in found:
            if found[":status"].startswith("1"):
                return
            self.is_call = found[":status"] == "200" and headers.is_grpc_content(found)
        if self._ends_stream:
            self.is_whole = True
            self.end = self._status(found)
        elif not self.is_call:
            self.end = self._not_grpc(found)

    def _status(self, found: dict[str, str]) -> End:
        number = found.get("grpc-status", "")
        if not number.isdecimal():
            if self.is_call:
                return Code.INTERNAL, "server closed the stream without a grpc-status"
            return self._not_grpc(found)
        code = int(number)
        details = unquote_to_bytes(found.get("grpc-message", "")).decode(errors="replace")
        return (Code(code) if code in _NUMBERS else Code.UNKNOWN), details

    def _not_grpc(self, found: dict[str, str]) -> End:
        status = found.get(":status", "none")
        code = _OF_HTTP.get(int(status), Code.UNKNOWN) if status.isdecimal() else Code.INTERNAL
        kind = found.get("content-type", "")
        return (
            code,
            f'unexpected HTTP status code received from server: {status}; content-type "{kind}" is not gRPC',
        )
