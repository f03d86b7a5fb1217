"""One request over one connection: whole (`fetch`) or streamed (`open_exchange`)."""

import re
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Self
from urllib.parse import urlsplit

import h11
import msgspec

from pilot_agent.http.dial import Deadline, Dialing, connect, words
from pilot_agent.http.errors import (
    HttpError,
    HttpTimeoutError,
    ProtocolError,
    RedirectError,
    ResponseTooLargeError,
    authority,
)
from pilot_agent.http.target import redirected

Headers = Sequence[tuple[str, str]]

_RECEIVE_BYTES: Final = 65_536
_HEAD_LIMIT_BYTES: Final = 65_536
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_KEEPS_METHOD: Final = (307, 308)


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]  # names in lower case, in order of arrival
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first value of the header `name` (in lower case)."""
        return _first(self.headers, name)


class Exchange:
    """An answer whose head is here and whose body is still coming. Who opened it closes it."""

    def __init__(self, sock: socket.socket, protocol: h11.Connection, deadline: Deadline) -> None:
        self._sock, self._protocol, self._deadline = sock, protocol, deadline
        self._is_released = False
        head = self._head()
        self.status = head.status_code
        self.reason = head.reason.decode("latin-1")
        self.headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers)

    def header(self, name: str) -> str | None:
        """Return the first value of the header `name` (in lower case)."""
        return _first(self.headers, name)

    def within(self, timeout_s: float | None) -> None:
        """Give what is still to come a time limit of its own, instead of the whole call's."""
        self._deadline = Deadline(timeout_s)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives, at most 64 KiB at once.

        Raises:
            HttpTimeoutError, ProtocolError: the answer did not come to its end.
        """
        while True:
            event = self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    def released(self) -> socket.socket | None:
        """Return the socket for the next request, the caller's from now on; None where there can be none."""
        is_over = self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE
        if not is_over or self._protocol.trailing_data[0]:
            return None
        self._is_released = True
        return self._sock

    def close(self) -> None:
        """Close the socket, unless it was released."""
        if not self._is_released:
            self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _head(self) -> h11.Response:
        while True:
            event = self._next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise ProtocolError("EOF")

    def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError as error:
                raise ProtocolError(f"malformed HTTP response: {error}") from error
            if isinstance(event, h11.Event):
                return event
            data = self._received()
            if not data and self._protocol.their_state is h11.SEND_RESPONSE:
                raise ProtocolError("EOF")
            self._protocol.receive_data(data)

    def _received(self) -> bytes:
        try:
            self._sock.settimeout(self._deadline.remaining_s())
            return self._sock.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise HttpTimeoutError(
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ) from error
        except OSError as error:
            raise ProtocolError(f"read tcp: {words(error)}") from error


def open_exchange(
    host: str,
    port: int,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    headers: Headers = (),
    timeout_s: float | None,
    dialing: Dialing = Dialing(),  # noqa: B008  # frozen
) -> Exchange:
    """Send one request and return its answer with the body still to be read.

    `Host` (unless given) and `Content-Length` (where there is a body) are added; the connection is not
    used again (`Connection: close`). `timeout_s` bounds everything but the name look-up, from connect
    to the last byte; None: no limit.

    Raises:
        HttpError: no answer; the subclass tells why.
    """
    protocol, request = _encoded(authority(host, port), method, target, body=body, headers=headers)
    deadline = Deadline(timeout_s)
    return _on(connect(host, port, deadline, dialing), deadline, protocol, request)


def exchange_on(
    sock: socket.socket, deadline: Deadline, *, peer: str, method: str, target: str, headers: Headers = ()
) -> Exchange:
    """Send one request over a connected socket, which belongs to the exchange from now on.

    `peer` is the value of `Host` where `headers` have none; the rest is as for `open_exchange`.

    Raises:
        HttpError: no answer; the socket is closed then.
    """
    try:
        protocol, request = _encoded(peer, method, target, body=b"", headers=headers)
    except BaseException:
        sock.close()
        raise
    return _on(sock, deadline, protocol, request)


def _on(sock: socket.socket, deadline: Deadline, protocol: h11.Connection, request: bytes) -> Exchange:
    try:
        _send(sock, request, deadline)
        return Exchange(sock, protocol, deadline)
    except BaseException:
        sock.close()
        raise


def fetch(
    host: str,
    port: int,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    headers: Headers = (),
    timeout_s: float | None,
    limit_bytes: int,
    truncate: bool = False,
    max_redirects: int = 0,
    dialing: Dialing = Dialing(),  # noqa: B008  # frozen
) -> Response:
    """Send one request and return the whole answer.

    A body above `limit_bytes` is an error, or cut there with `truncate` (0 then reads
    none of it). Redirects are followed up to
    `max_redirects` (301, 302 and 303 turn into GET, 307 and 308 keep method and body, an answer without
    Location is returned as it is); 0 follows none and returns the redirect. As in Go, 10 means ten requests
    in all. `timeout_s` is for all hops together.

    Raises:
        HttpError: no answer; the subclass tells why.

    Source: Go's net/http client, whose rules the reference relies on.
    """
    deadline = Deadline(timeout_s)
    scheme = "https" if dialing.tls else "http"
    url = f"{scheme}://{authority(host, port)}{target}"
    for _ in range(max(max_redirects, 1)):
        with open_exchange(
            host,
            port,
            method,
            target,
            body=body,
            headers=headers,
            timeout_s=deadline.remaining_s(),
            dialing=dialing,
        ) as exchange:
            location = exchange.header("location")
            if not max_redirects or exchange.status not in _REDIRECTS or not location:
                return _whole(exchange, limit_bytes, truncate)
            if exchange.status not in _KEEPS_METHOD and method != "HEAD":
                method, body = "GET", b""
        url = redirected(url, location)
        host, port, target, dialing = _hop(url, dialing)
        headers = [header for header in headers if header[0].lower() != "host"]
    raise RedirectError(f"stopped after {max_redirects} redirects")


def _whole(exchange: Exchange, limit_bytes: int, truncate: bool) -> Response:
    parts: list[bytes] = []
    size = 0
    for chunk in exchange.chunks() if limit_bytes or not truncate else ():
        parts.append(chunk)
        size += len(chunk)
        if size > limit_bytes and not truncate:
            raise ResponseTooLargeError(f"response exceeds {limit_bytes} bytes")
        if size >= limit_bytes and truncate:
            break
    content = b"".join(parts)[:limit_bytes]
    return Response(status=exchange.status, reason=exchange.reason, headers=exchange.headers, body=content)


def _hop(url: str, dialing: Dialing) -> tuple[str, int, str, Dialing]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RedirectError(f'failed to parse Location header "{url}": {error}') from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RedirectError(f'unsupported protocol scheme "{parts.scheme}"')
    tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    hop = Dialing(source_address=dialing.source_address, linger_s=dialing.linger_s, tls=tls)
    return parts.hostname, port or (443 if tls else 80), target, hop


def _encoded(
    peer: str, method: str, target: str, *, body: bytes, headers: Headers
) -> tuple[h11.Connection, bytes]:
    """Return the protocol of a new connection, and the request as it is to be sent."""
    if not _TOKEN.fullmatch(method):
        raise ProtocolError(f'net/http: invalid method "{method}"')
    names = {name.lower() for name, _ in headers}
    added = [] if "host" in names else [("Host", peer)]
    added += [] if "connection" in names else [("Connection", "close")]
    if (body or method in ("POST", "PUT", "PATCH")) and "content-length" not in names:
        added.append(("Content-Length", str(len(body))))
    protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT_BYTES)
    try:
        pairs = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in (*added, *headers)]
        request = h11.Request(method=method.encode(), target=target.encode(), headers=pairs)
        parts = [protocol.send(request), protocol.send(h11.Data(data=body)) if body else b""]
        parts.append(protocol.send(h11.EndOfMessage()))
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise ProtocolError(f"net/http: invalid request: {error}") from error
    return protocol, b"".join(part or b"" for part in parts)


def _send(sock: socket.socket, request: bytes, deadline: Deadline) -> None:
    try:
        sock.settimeout(deadline.remaining_s())
        sock.sendall(request)
    except TimeoutError as error:
        raise HttpTimeoutError(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ) from error
    except (BrokenPipeError, ConnectionResetError):
        return  # an early answer may still be there to read
    except OSError as error:
        raise HttpError(f"write tcp: {words(error)}") from error


def _first(headers: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((value for key, value in headers if key == name), None)
