"""One HTTP call for `request` and `wait`, over a plain socket.

These commands start anew for every hook and probe, beside a pod that is starting: http.client would
cost them 30 ms of imports. Texts of errors are those of Go's client, which people know from the
reference.
"""

from __future__ import annotations

import _socket  # `socket` itself loads `enum` and `selectors`, a tenth of a hook's start
import os
import time

from pilot_agent.cli.errors import CliError
from pilot_agent.cli.response import Response, ResponseError, read_response
from pilot_agent.cli.url import Url, UrlError, parse_url
from pilot_agent.gotext import quote
from pilot_agent.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_MAX_REQUESTS: Final = 10
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TO_GET: Final = (301, 302, 303)
_AS_IT_WAS: Final = (307, 308)
_TIMED_OUT: Final = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"


class FetchError(CliError):
    """No whole answer; the text tells which call, which step and why."""


class Answer(Record):
    """The last answer, after all redirects."""

    status: int
    body: bytes


class _Request(Record):
    method: str
    url: Url
    body: bytes


def fetch(method: str, url_text: str, body: bytes = b"", *, timeout_s: float | None) -> Answer:
    """Send a request, follow redirects and return the answer with its whole body.

    `timeout_s` bounds all of it but the look-up of the name; None: no limit. As in Go, ten requests at
    most are sent, 301, 302 and 303 turn into GET without a body, 307 and 308 repeat what was sent, and
    a redirect without Location is an answer.

    Raises:
        FetchError: there was no whole answer.
        UrlError: `url_text` is no URL.
    """
    if not method or not _TOKEN.issuperset(method):
        raise FetchError(f"net/http: invalid method {quote(method)}")
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    request = _Request(method, parse_url(url_text), body)
    for _ in range(_MAX_REQUESTS):
        response = _exchange(method, request, deadline)
        location = response.headers.get("location", "")
        if not location or response.status not in (*_TO_GET, *_AS_IT_WAS):
            return Answer(response.status, response.body)
        request = _redirected(request, response.status, location)
    raise _failure(method, request.url, f"stopped after {_MAX_REQUESTS} redirects")


def _exchange(first_method: str, request: _Request, deadline: float | None) -> Response:
    try:
        connection = _connected(request.url, deadline)
        try:
            _send(connection, _encoded(request), deadline)
            return read_response(connection, request.method, deadline)
        finally:
            connection.close()
    except TimeoutError as error:
        raise _failure(first_method, request.url, _TIMED_OUT) from error
    except ResponseError as error:
        raise (
            FetchError(str(error)) if error.in_body else _failure(first_method, request.url, str(error))
        ) from error
    except OSError as error:
        raise _failure(first_method, request.url, _words(error)) from error


def _connected(url: Url, deadline: float | None) -> _socket.socket:
    try:
        # bytes: for text Python would load its IDNA codec, a quarter of this program's start
        host = url.host.encode() if url.host.isascii() else url.host
        found = _socket.getaddrinfo(host, url.port, 0, _socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"dial tcp: lookup {url.host}: no such host") from error
    first: OSError | None = None
    for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
        connection = _socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_share_s(deadline, left))
            connection.connect(address)
            return _secured(connection, url.host) if url.scheme == "https" else connection
        except OSError as error:
            connection.close()
            where = f"[{address[0]}]" if family == _socket.AF_INET6 else address[0]
            first = first or OSError(f"dial tcp {where}:{url.port}: connect: {_words(error)}")
    raise first or OSError(f"dial tcp: lookup {url.host}: no such host")


def _share_s(deadline: float | None, addresses_left: int) -> float | None:
    """Return this address's share of the time, so that a silent one leaves some to the next."""
    if deadline is None:
        return None
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s / addresses_left


def _secured(connection: _socket.socket, host: str) -> _socket.socket:
    import socket  # noqa: PLC0415  # only `wait --url https://…`
    import ssl  # noqa: PLC0415

    whole = socket.socket(fileno=connection.detach())
    whole.settimeout(connection.gettimeout())
    return ssl.create_default_context().wrap_socket(whole, server_hostname=host)


def _encoded(request: _Request) -> bytes:
    head = [
        f"{request.method} {request.url.target} HTTP/1.1",
        f"Host: {request.url.authority}",
        "User-Agent: pilot-agent",
        "Connection: close",
    ]
    if request.body or request.method in ("POST", "PUT", "PATCH"):
        head.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join((*head, "", "")).encode(errors="surrogateescape") + request.body


def _send(connection: _socket.socket, data: bytes, deadline: float | None) -> None:
    connection.settimeout(_share_s(deadline, 1))
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return  # the peer may have answered before it read everything


def _redirected(request: _Request, status: int, location: str) -> _Request:
    from urllib.parse import urljoin  # noqa: PLC0415  # redirects are rare

    try:
        url = parse_url(urljoin(str(request.url), location))
    except ValueError as error:
        raise UrlError(f"failed to parse Location header {quote(location)}: {error}") from error
    if status in _AS_IT_WAS:
        return _Request(request.method, url, request.body)
    return _Request(request.method if request.method == "HEAD" else "GET", url, b"")


def _failure(method: str, url: Url, why: str) -> FetchError:
    return FetchError(f"{method[:1]}{method[1:].lower()} {quote(str(url))}: {why}")


def _words(error: OSError) -> str:
    """Return the system's words in Go's spelling, all lower case; our own texts as they are."""
    if error.errno is None:
        return str(error)
    text = os.strerror(error.errno) if error.errno > 0 else str(error)
    return text[:1].lower() + text[1:]
