"""`grpc.health.v1.Health/Check` over an HTTP/2 connection of its own, for probes.

Not by the gRPC library: its channels cannot be bound to the source address that lets a probe pass the
traffic redirection, and cost the process threads and megabytes that it then keeps.
"""

import socket
import time
from typing import Final
from urllib.parse import unquote

from pilot_agent import wire
from pilot_agent.http import ConnectError, Dialing, HttpError, HttpTimeoutError
from pilot_agent.http.dial import Deadline, connect
from pilot_agent.http.errors import authority
from pilot_agent.rpc.status import Code

SERVING: Final = 1
_METHOD: Final = "/grpc.health.v1.Health/Check"
_RETRY_S: Final = 0.1
_LIMIT_BYTES: Final = 4096
_FRAME_HEAD_BYTES: Final = 5
_BY_HTTP_STATUS: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
"""Of an answer without a grpc-status. Source: gRPC over HTTP/2, mapping of HTTP status codes."""


class NotConnectedError(HttpError):
    """There is nobody who speaks HTTP/2, within the deadline."""


class CallError(HttpError):
    """The call ended with another status than OK."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(f"rpc error: code = {code.go_name} desc = {details}")
        self.code, self.details = code, details


def check(
    host: str, port: int, service: str, *, user_agent: str, dialing: Dialing, deadline: Deadline
) -> int:
    """Return the service's status: 1 is SERVING. One deadline bounds connect and call.

    A refused connection is tried again until the deadline, as Go's blocking dial does.

    Raises:
        NotConnectedError, CallError
    """
    try:
        sock = _connected(host, port, dialing, deadline)
    except HttpError as error:
        raise NotConnectedError(str(error)) from error
    from pilot_agent.http.http2 import Http2Connection  # noqa: PLC0415  # 2 MB that few probes need

    connection = Http2Connection(sock)
    message = wire.text_field(1, service)
    try:
        answer = connection.exchange(
            deadline,
            _headers(authority(host, port), user_agent),
            body=b"\0" + len(message).to_bytes(4, "big") + message,
            limit_bytes=_LIMIT_BYTES,
        )
    except HttpTimeoutError as error:
        if not connection.has_heard:
            raise NotConnectedError(str(error)) from error
        raise CallError(Code.DEADLINE_EXCEEDED, "context deadline exceeded") from error
    except HttpError as error:
        raise CallError(Code.UNAVAILABLE, str(error)) from error
    finally:
        connection.close()
    status = answer.header("grpc-status")
    if status is None:
        code = _BY_HTTP_STATUS.get(answer.status, Code.UNKNOWN)
        raise CallError(code, f"HTTP status {answer.status} without a grpc-status")
    if status != "0":
        raise CallError(_code(status), unquote(answer.header("grpc-message") or ""))
    return _status_in(answer.body)


def _connected(host: str, port: int, dialing: Dialing, deadline: Deadline) -> socket.socket:
    while True:
        try:
            return connect(host, port, deadline, dialing)
        except ConnectError:
            left_s = deadline.remaining_s()
            time.sleep(_RETRY_S if left_s is None else min(_RETRY_S, left_s))


def _headers(peer: str, user_agent: str) -> tuple[tuple[str, str], ...]:
    return (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", _METHOD),
        (":authority", peer),
        ("content-type", "application/grpc"),
        ("user-agent", f"{user_agent} pilot-agent".strip()),
        ("te", "trailers"),
    )


def _code(text: str) -> Code:
    try:
        return Code(int(text[:4]))
    except ValueError:
        return Code.UNKNOWN


def _status_in(body: bytes) -> int:
    """Raises: CallError: it is no HealthCheckResponse."""
    try:
        message = wire.fields(body[_FRAME_HEAD_BYTES:])
        return next((field.value for field in message if field.number == 1), 0)
    except wire.WireError as error:
        raise CallError(Code.INTERNAL, f"the answer is no HealthCheckResponse: {error}") from error
