"""The HTTP probe: one GET with the caller's headers, over HTTP/1.1, or HTTP/2 where TLS chose it.

Source: the reference's status server and the Go client behind it.
"""

import socket
import zlib
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from pilot_agent.http import Dialing, HttpTimeoutError, RedirectError, exchange_on
from pilot_agent.http.dial import Deadline, connect
from pilot_agent.http.errors import HttpError, authority
from pilot_agent.http.target import redirected
from pilot_agent.status.app.answers import BODY_LIMIT_BYTES
from pilot_agent.status.app.kept import Idle, IdleHttp1, Kept, Place
from pilot_agent.status.messages import Headers

if TYPE_CHECKING:
    from pilot_agent.http.http2 import Http2Connection

_LINGER_S: Final = 1
_MOST_REQUESTS: Final = 10
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_RAW_LIMIT_BYTES: Final = BODY_LIMIT_BYTES + 512
"""What gzip may need for as much text that does not shrink."""

_NOT_PASSED: Final = frozenset(
    [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a probe goes."""

    host: str
    port: int
    path: str  # with its query
    tls: bool = False

    @property
    def place(self) -> Place:
        return self.host, self.port, self.tls

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{authority(self.host, self.port)}{self.path}"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all requests of one probe."""

    kept: Kept | None = None  # where connections are left open; None: each probe has its own

    headers: Headers  # the caller's
    source_address: str
    http2: bool  # may be offered
    deadline: Deadline


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    body: bytes
    location: str
    encoding: str


def probe(target: Target, host_header: str, call: Call) -> tuple[int, bytes]:
    """Return the application's status and the first 10 KiB of its body.

    A redirect to the same host name is followed, ten requests at most; any other is the answer.

    Raises:
        HttpError: no answer.
    """
    headers = [header for header in call.headers if header[0] not in _NOT_PASSED]
    added = [] if any(name == "accept-encoding" for name, _ in headers) else [("accept-encoding", "gzip")]
    first_host = target.host
    for _ in range(_MOST_REQUESTS):
        reply = _asked(target, host_header, (*headers, *added), call)
        following = _following(target, first_host, reply)
        if following is None:
            body = _unpacked(reply.body) if added and reply.encoding == "gzip" else reply.body
            return reply.status, body[:BODY_LIMIT_BYTES]
        if urlsplit(reply.location).hostname:  # a relative one keeps the caller's
            host_header = authority(following.host, following.port)
        target = following
    raise RedirectError("stopped after 10 redirects")


def _asked(target: Target, host_header: str, headers: Headers, call: Call) -> _Reply:
    kept = call.kept.take(target.place) if call.kept is not None else None
    if kept is not None:
        try:
            return _over(kept, target, host_header, headers, call)
        except HttpTimeoutError:
            raise
        except HttpError:
            pass  # it was closed at the same moment, which says nothing of the application
    alpn = ("h2", "http/1.1") if call.http2 else ()
    dialing = Dialing(source_address=call.source_address, linger_s=_LINGER_S, tls=target.tls, alpn=alpn)
    sock = connect(target.host, target.port, call.deadline, dialing)
    connection: Idle = IdleHttp1(sock)
    if target.tls and getattr(sock, "selected_alpn_protocol")() == "h2":  # noqa: B009  # of an SSLSocket
        from pilot_agent.http.http2 import Http2Connection  # noqa: PLC0415  # 2 MB that few probes need

        connection = Http2Connection(sock)
    return _over(connection, target, host_header, headers, call)


def _over(connection: Idle, target: Target, host_header: str, headers: Headers, call: Call) -> _Reply:
    """Ask over a connection, which is kept or closed afterwards."""
    if isinstance(connection, IdleHttp1):
        return _over_http1(connection.sock, target, host_header, headers, call)
    return _over_http2(connection, target, host_header, headers, call)


def _over_http1(
    sock: socket.socket, target: Target, host_header: str, headers: Headers, call: Call
) -> _Reply:
    connection = (("Connection", "close" if call.kept is None else "keep-alive"),)
    passed_on = ((_canonical(name), value) for name, value in headers)
    own = (("Host", host_header), *passed_on, *connection)
    with exchange_on(
        sock, call.deadline, peer=host_header, method="GET", target=target.path, headers=own
    ) as exchange:
        body = b""
        try:
            for chunk in exchange.chunks():
                body += chunk
                if len(body) >= _RAW_LIMIT_BYTES:
                    break
        except HttpError:
            pass  # its status counts; what there is of the body is passed on
        if call.kept is not None and (left_open := exchange.released()) is not None:
            call.kept.give(target.place, IdleHttp1(left_open))
        return _Reply(
            status=exchange.status,
            body=body[:_RAW_LIMIT_BYTES],
            location=exchange.header("location") or "",
            encoding=exchange.header("content-encoding") or "",
        )


def _canonical(name: str) -> str:
    """Return a header's name as Go, and so the reference, writes it: some applications look at its case."""
    return "-".join(part.capitalize() for part in name.split("-"))


def _over_http2(
    connection: "Http2Connection", target: Target, host_header: str, headers: Headers, call: Call
) -> _Reply:
    pseudo = (
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", host_header),
        (":path", target.path),
    )
    is_kept = False
    try:
        answer = connection.exchange(call.deadline, (*pseudo, *headers), limit_bytes=_RAW_LIMIT_BYTES)
        if call.kept is not None and connection.is_usable():
            call.kept.give(target.place, connection)
            is_kept = True
    finally:
        if not is_kept:
            connection.close()
    return _Reply(
        status=answer.status,
        body=answer.body,
        location=answer.header("location") or "",
        encoding=answer.header("content-encoding") or "",
    )


def _following(target: Target, first_host: str, reply: _Reply) -> Target | None:
    """Return where a redirect leads, None when it is not to be followed.

    Raises:
        RedirectError: its target is no URL.
    """
    if reply.status not in _REDIRECTS or not reply.location:
        return None
    url = redirected(target.url, reply.location)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RedirectError(f'failed to parse Location header "{reply.location}": {error}') from error
    if parts.scheme not in ("http", "https") or parts.hostname != first_host.strip("[]").lower():
        return None
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host=first_host, port=port or (443 if tls else 80), path=path, tls=tls)


def _unpacked(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(body, BODY_LIMIT_BYTES)
    except zlib.error:
        return b""
