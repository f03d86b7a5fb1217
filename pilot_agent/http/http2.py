"""One request over HTTP/2, for applications that speak nothing else: gRPC, and TLS that chose `h2`.

The protocol is h2's part (2.1 MB, so only who probes such an application imports this); sockets, limits
and deadlines are ours.
"""

import socket
from collections.abc import Sequence
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import msgspec

from pilot_agent.http.dial import Deadline, words
from pilot_agent.http.errors import HttpTimeoutError, ProtocolError

_RECEIVE_BYTES: Final = 65_536
_STREAM: Final = 1
_TIMED_OUT: Final = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"


class Http2Answer(msgspec.Struct, kw_only=True):
    """What came on the one stream; the body is cut at the caller's limit."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    trailers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str | None:
        """Return the first value of `name` among headers and trailers."""
        return next((value for key, value in (*self.headers, *self.trailers) if key == name), None)


def exchange(
    sock: socket.socket,
    deadline: Deadline,
    headers: Sequence[tuple[str, str]],
    *,
    body: bytes = b"",
    limit_bytes: int,
) -> Http2Answer:
    """Send one request over a connected socket, read its answer, and close the socket.

    `headers` begin with the pseudo-headers; names in lower case.

    Raises:
        HttpTimeoutError, ProtocolError: no whole answer (but a body that reached the limit is one).
    """
    with sock:
        try:
            return _exchanged(sock, deadline, headers, body, limit_bytes)
        except TimeoutError as error:
            raise HttpTimeoutError(_TIMED_OUT) from error
        except OSError as error:
            raise ProtocolError(f"read tcp: {words(error)}") from error
        except h2.exceptions.ProtocolError as error:
            raise ProtocolError(f"http2: {error}") from error


def _exchanged(
    sock: socket.socket,
    deadline: Deadline,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    limit_bytes: int,
) -> Http2Answer:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    connection.send_headers(_STREAM, list(headers), end_stream=not body)
    if body:
        connection.send_data(_STREAM, body, end_stream=True)
    answer = Http2Answer()
    while True:
        if pending := connection.data_to_send():
            sock.settimeout(deadline.remaining_s())
            sock.sendall(pending)
        sock.settimeout(deadline.remaining_s())
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            raise ProtocolError("EOF" if not answer.status else "unexpected EOF")
        for event in connection.receive_data(data):
            if _taken(event, answer, connection, limit_bytes):
                return answer


def _taken(
    event: h2.events.Event, answer: Http2Answer, connection: h2.connection.H2Connection, limit_bytes: int
) -> bool:
    """Note one event; return whether the answer is complete."""
    match event:
        case h2.events.ResponseReceived():
            pairs = _texts(event.headers)
            answer.status = int(next((value for name, value in pairs if name == ":status"), "0"))
            answer.headers = pairs
        case h2.events.TrailersReceived():
            answer.trailers = _texts(event.headers)
        case h2.events.DataReceived():
            answer.body = (answer.body + event.data)[:limit_bytes]
            connection.acknowledge_received_data(event.flow_controlled_length, _STREAM)
            return len(answer.body) >= limit_bytes
        case h2.events.StreamReset() | h2.events.ConnectionTerminated():
            raise ProtocolError(f"http2: {type(event).__name__} with error code {event.error_code}")
        case h2.events.StreamEnded():
            return True
        case _:
            pass
    return False


def _texts(headers: object) -> tuple[tuple[str, str], ...]:
    assert isinstance(headers, list)
    return tuple((str(name), str(value)) for name, value in headers)
