"""Requests over HTTP/2, for applications that speak nothing else: gRPC, and TLS that chose `h2`.

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
MOST_REQUESTS: Final = 1000
"""On one connection: h2 remembers up to 65,536 streams that were closed, some megabytes."""

_UNASKED_READS: Final = 16  # a peer that has more to say between two requests is let go
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


class Http2Connection:
    """A connected socket that speaks HTTP/2: one request after the other, each on a stream of its own."""

    def __init__(self, sock: socket.socket) -> None:
        """Take the socket, which is this object's from now on."""
        self._sock = sock
        self._protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._protocol.initiate_connection()
        self._is_between_requests = True
        self._requests = 0
        self.has_heard = False  # the peer has said something in HTTP/2

    def exchange(
        self, deadline: Deadline, headers: Sequence[tuple[str, str]], *, body: bytes = b"", limit_bytes: int
    ) -> Http2Answer:
        """Send one request and read its answer.

        `headers` begin with the pseudo-headers; names in lower case.

        Raises:
            HttpTimeoutError, ProtocolError: no whole answer (but a body that reached the limit is one).
        """
        self._is_between_requests = False
        self._requests += 1
        try:
            return self._exchanged(deadline, headers, body, limit_bytes)
        except TimeoutError as error:
            raise HttpTimeoutError(_TIMED_OUT) from error
        except OSError as error:
            raise ProtocolError(f"read tcp: {words(error)}") from error
        except h2.exceptions.ProtocolError as error:
            raise ProtocolError(f"http2: {error}") from error

    def is_usable(self) -> bool:
        """Return whether another request can be sent; takes what the peer has sent unasked."""
        try:
            return self._is_between_requests and self._requests < MOST_REQUESTS and self._is_silent()
        except (OSError, h2.exceptions.ProtocolError):
            return False

    def close(self) -> None:
        self._sock.close()

    def _exchanged(
        self, deadline: Deadline, headers: Sequence[tuple[str, str]], body: bytes, limit_bytes: int
    ) -> Http2Answer:
        protocol = self._protocol
        stream = protocol.get_next_available_stream_id()
        protocol.send_headers(stream, list(headers), end_stream=not body)
        if body:
            protocol.send_data(stream, body, end_stream=True)
        answer = Http2Answer()
        while True:
            if pending := protocol.data_to_send():
                self._sock.settimeout(deadline.remaining_s())
                self._sock.sendall(pending)
            self._sock.settimeout(deadline.remaining_s())
            data = self._sock.recv(_RECEIVE_BYTES)
            if not data:
                raise ProtocolError("EOF" if not answer.status else "unexpected EOF")
            events = protocol.receive_data(data)
            self.has_heard = True
            for event in events:
                if getattr(event, "stream_id", None) not in (None, 0, stream):
                    _passed_over(event, protocol)
                elif _taken(event, answer, protocol, limit_bytes):
                    is_whole = isinstance(event, h2.events.StreamEnded)
                    self._is_between_requests = is_whole and not _has_goodbye(events)
                    return answer

    def _is_silent(self) -> bool:
        """Return whether the peer has said nothing that ends the connection."""
        self._sock.settimeout(0.0)
        for _ in range(_UNASKED_READS):
            try:
                data = self._sock.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return True
            except OSError as error:
                return type(error).__name__ == "SSLWantReadError"  # TLS is not loaded where nobody wants it
            if not data or _has_goodbye(self._protocol.receive_data(data)):
                return False
        return False


def _has_goodbye(events: Sequence[h2.events.Event]) -> bool:
    return any(isinstance(event, h2.events.ConnectionTerminated) for event in events)


def _passed_over(event: h2.events.Event, connection: h2.connection.H2Connection) -> None:
    """Take what belongs to another stream: a push that nobody asked for."""
    if isinstance(event, h2.events.DataReceived):
        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)


def _taken(
    event: h2.events.Event, answer: Http2Answer, connection: h2.connection.H2Connection, limit_bytes: int
) -> bool:
    """Note one event; return whether the answer is complete."""
    match event:
        case h2.events.ResponseReceived():
            pairs = _texts(event.headers)
            answer.status = _status(next((value for name, value in pairs if name == ":status"), ""))
            answer.headers = pairs
        case h2.events.TrailersReceived():
            answer.trailers = _texts(event.headers)
        case h2.events.DataReceived():
            answer.body = (answer.body + event.data)[:limit_bytes]
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return len(answer.body) >= limit_bytes
        case h2.events.StreamReset() | h2.events.ConnectionTerminated():
            raise ProtocolError(f"http2: {type(event).__name__} with error code {event.error_code}")
        case h2.events.StreamEnded():
            return True
        case _:
            pass
    return False


def _status(text: str) -> int:
    """Raises: ProtocolError: it is no final status of HTTP."""
    if not (len(text) == 3 and text.isascii() and text.isdigit() and text >= "200"):
        raise ProtocolError(f"http2: status got={text[:20]!r} expected=200..999")
    return int(text)


def _texts(headers: object) -> tuple[tuple[str, str], ...]:
    assert isinstance(headers, list)
    return tuple((name.decode(errors="replace"), value.decode(errors="replace")) for name, value in headers)
