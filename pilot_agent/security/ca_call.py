"""One unary gRPC call over a connection of its own, made with `ssl` and h2 instead of gRPC.

For short-lived workers: importing gRPC costs each of them 40 to 60 ms, this 15; and gRPC cannot be told
which versions and key exchanges of TLS it may use (COMPLIANCE_POLICY).
"""

import os
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from pilot_agent.http import Deadline, HttpError, HttpTimeoutError
from pilot_agent.http.dial import words
from pilot_agent.http.errors import authority
from pilot_agent.http.http2 import Http2Answer, exchange
from pilot_agent.http.proxy import dial
from pilot_agent.rpc import Code
from pilot_agent.security.compliance import ComplianceError
from pilot_agent.security.tls import Tls

Headers = tuple[tuple[str, str], ...]

_LARGEST_ANSWER_BYTES: Final = 4 << 20  # gRPC's own limit
_PREFIX_BYTES: Final = 5  # compressed or not, length
_HTTPS_PORT: Final = 443
_HEADER_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_HEADER_TEXT: Final = re.compile(r"[ -~]*")
_CODES: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
"""What an answer means that is no gRPC's. Source: gRPC's mapping of HTTP's status codes."""


class CallFailed(Exception):  # noqa: N818  # a status, not a fault
    """The call ended with this status; the text is its message."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code = code


def call(
    address: str,
    method: str,
    message: bytes,
    *,
    headers: Headers,
    tls: Tls | None,
    timeout_s: float,
    environment: Mapping[str, str] = os.environ,
) -> bytes:
    """Return the answer's message.

    Args:
        address: Whom to ask, "host:port".
        method: "/package.Service/Method".
        message: The request, encoded.
        headers: Metadata; the names in lower case.
        tls: None for plain text.
        timeout_s: For everything, the connection included.
        environment: Where a proxy may be named.

    Raises:
        CallFailed: there is none.
    """
    host, port = _host_and_port(address)
    deadline = Deadline(timeout_s)
    pseudo = (
        (":method", "POST"),
        (":scheme", "https" if tls else "http"),
        (":path", method),
        (":authority", tls.server_name if tls and tls.server_name != host else authority(host, port)),
        ("content-type", "application/grpc"),
        ("user-agent", "pilot-agent"),
        ("te", "trailers"),
        ("grpc-timeout", f"{int(timeout_s * 1000)}m"),
    )
    body = b"\0" + len(message).to_bytes(4, "big") + message
    try:
        fields = (*pseudo, *_checked(headers))
        if tls is None:
            sock = dial(host, port, deadline, environment)
        else:
            sock = tls.secured(lambda: dial(host, port, deadline, environment), deadline)
        limit_bytes = _PREFIX_BYTES + _LARGEST_ANSWER_BYTES + 1
        return _message(exchange(sock, deadline, fields, body=body, limit_bytes=limit_bytes))
    except HttpTimeoutError as error:
        raise CallFailed(Code.DEADLINE_EXCEEDED, "context deadline exceeded") from error
    except (HttpError, ComplianceError) as error:
        raise CallFailed(Code.UNAVAILABLE, f'connection error: desc = "{error}"') from error
    except OSError as error:
        raise CallFailed(Code.UNAVAILABLE, f'connection error: desc = "{words(error)}"') from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return address, _HTTPS_PORT
    return host.removeprefix("[").removesuffix("]"), int(port)


def _checked(headers: Headers) -> Headers:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_TEXT.fullmatch(value):
            text = f"header {name!r} cannot be sent: its name or value has illegal characters"
            raise CallFailed(Code.INTERNAL, text)
    return headers


def _message(answer: Http2Answer) -> bytes:
    status, text = answer.header("grpc-status"), unquote(answer.header("grpc-message") or "")
    if status is None:
        said = f"unexpected HTTP status code received from server: {answer.status}"
        if len(answer.body) > _PREFIX_BYTES + _LARGEST_ANSWER_BYTES:
            said = f"grpc: received message larger than max ({_LARGEST_ANSWER_BYTES})"
            raise CallFailed(Code.RESOURCE_EXHAUSTED, said)
        raise CallFailed(_CODES.get(answer.status, Code.UNKNOWN), said)
    if status != "0":
        raise CallFailed(int(status) if status.isdecimal() else Code.UNKNOWN, text)
    prefix, body = answer.body[:_PREFIX_BYTES], answer.body[_PREFIX_BYTES:]
    if len(prefix) < _PREFIX_BYTES or prefix[0] or int.from_bytes(prefix[1:], "big") != len(body):
        raise CallFailed(Code.INTERNAL, f"the answer is not one whole message: {len(answer.body)} bytes")
    return body
