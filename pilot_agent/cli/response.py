"""Reads one HTTP/1.x answer from a socket: head, then a body in any of its four framings."""

from __future__ import annotations

import time

from pilot_agent.gotext import quote
from pilot_agent.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Final

_RECEIVE_BYTES: Final = 1 << 16
_HEAD_LIMIT_BYTES: Final = 1 << 20
_BODY_TIMED_OUT: Final = (
    "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
)


class ResponseError(Exception):
    """What came is no whole answer; `in_body` tells that its head was fine."""

    def __init__(self, text: str, *, in_body: bool = False) -> None:
        super().__init__(text)
        self.in_body = in_body


class Response(Record):
    """A whole answer. Header names are in lower case; of a repeated one the first counts."""

    status: int
    headers: dict[str, str]
    body: bytes


def read_response(connection: _socket.socket, method: str, deadline: float | None) -> Response:
    """Return the answer to a `method` request; interim answers (1xx) are skipped.

    Raises:
        ResponseError: malformed, cut off, or the deadline passed in the body.
        TimeoutError: the deadline (monotonic seconds, None: no limit) passed before the head was there.
        OSError: the connection failed.
    """
    reader = _Reader(connection, deadline)
    status, headers = _head(reader)
    while 100 <= status < 200 and status != 101:
        status, headers = _head(reader)
    try:
        return Response(status, headers, _body(reader, method, status, headers))
    except TimeoutError as error:
        raise ResponseError(_BODY_TIMED_OUT, in_body=True) from error
    except OSError as error:
        raise ResponseError(f"read tcp: {error.strerror or error}", in_body=True) from error


class _Reader:
    """Lines and blocks from a socket."""

    def __init__(self, connection: _socket.socket, deadline: float | None) -> None:
        self._connection, self._deadline = connection, deadline
        self._buffer = bytearray()

    def line(self) -> bytes | None:
        """Return the next line without its end; None when the peer closed before it was whole."""
        searched = 0
        while (at := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _HEAD_LIMIT_BYTES:
                raise ResponseError(f"net/http: server response headers exceeded {_HEAD_LIMIT_BYTES} bytes")
            if not self._fill():
                return None
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return line.removesuffix(b"\r")

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._fill():
                raise ResponseError("unexpected EOF", in_body=True)
        block = bytes(self._buffer[:count])
        del self._buffer[:count]
        return block

    def to_the_end(self) -> bytes:
        while self._fill():
            pass
        return bytes(self._buffer)

    def _fill(self) -> bool:
        if self._deadline is not None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._connection.settimeout(left_s)
        data = self._connection.recv(_RECEIVE_BYTES)
        self._buffer += data
        return bool(data)


def _head(reader: _Reader) -> tuple[int, dict[str, str]]:
    first = reader.line()
    if first is None:
        raise ResponseError("EOF")
    status = _status(first.decode("latin-1"))
    headers: dict[str, str] = {}
    size = 0
    while line := reader.line():
        size += len(line)
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or size > _HEAD_LIMIT_BYTES:
            raise ResponseError(
                f"net/http: HTTP/1.x transport connection broken: malformed MIME header: {name}"
            )
        headers.setdefault(name.strip().lower(), value.strip())
    if line is None:
        raise ResponseError("unexpected EOF")
    return status, headers


def _status(line: str) -> int:
    version, _, rest = line.partition(" ")
    code = rest.lstrip(" ").partition(" ")[0]
    if not version.startswith("HTTP/1."):
        raise ResponseError(
            f"net/http: HTTP/1.x transport connection broken: malformed HTTP response {quote(line)}"
        )
    if not (len(code) == 3 and code.isascii() and code.isdigit()):
        raise ResponseError(
            f"net/http: HTTP/1.x transport connection broken: malformed HTTP status code {quote(code)}"
        )
    return int(code)


def _body(reader: _Reader, method: str, status: int, headers: dict[str, str]) -> bytes:
    if method == "HEAD" or status in (101, 204, 304):
        return b""
    if headers.get("transfer-encoding", "").lower().endswith("chunked"):
        return _chunked(reader)
    length = headers.get("content-length")
    if length is None:
        return reader.to_the_end()
    if not (length.isascii() and length.isdigit()):
        raise ResponseError(
            f"net/http: HTTP/1.x transport connection broken: bad Content-Length {quote(length)}"
        )
    return reader.exactly(int(length))


def _chunked(reader: _Reader) -> bytes:
    chunks: list[bytes] = []
    while size := _chunk_size(reader.line()):
        chunks.append(reader.exactly(size))
        if reader.line() != b"":
            raise ResponseError("malformed chunked encoding", in_body=True)
    while reader.line():
        pass  # trailers
    return b"".join(chunks)


def _chunk_size(line: bytes | None) -> int:
    if line is None:
        raise ResponseError("unexpected EOF", in_body=True)
    digits = line.partition(b";")[0].strip()
    if not digits or not frozenset(b"0123456789abcdefABCDEF").issuperset(digits):
        raise ResponseError("invalid byte in chunk length", in_body=True)
    return int(digits, 16)
