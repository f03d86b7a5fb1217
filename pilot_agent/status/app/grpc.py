"""The gRPC probe: `grpc.health.v1.Health/Check` over an HTTP/2 connection of its own.

Not by the gRPC library: its channels cannot be bound to the source address that lets a probe pass the
traffic redirection, and cost the process threads and megabytes that it then keeps.
"""

import socket
import time
from typing import Final

from pilot_agent import wire
from pilot_agent.http import ConnectError, Dialing, HttpError, HttpTimeoutError
from pilot_agent.http.dial import Deadline, connect
from pilot_agent.http.errors import authority

_METHOD: Final = "/grpc.health.v1.Health/Check"
_RETRY_S: Final = 0.1
_LINGER_S: Final = 1
_LIMIT_BYTES: Final = 4096
_SERVING: Final = 1
_FRAME_HEAD_BYTES: Final = 5


def probe(
    host: str, port: int, service: str, *, user_agent: str, source_address: str, timeout_s: float
) -> str:
    """Return "" for SERVING, else what stands in the log. One deadline bounds connect and call.

    A refused connection is tried again until the deadline, as Go's blocking dial does.
    """
    deadline = Deadline(timeout_s)
    try:
        sock = _connected(host, port, source_address, deadline)
    except HttpError as error:
        return f"Failed to create grpc connection to probe app: {error}"
    from pilot_agent.http.http2 import exchange  # noqa: PLC0415  # 2 MB that few probes need

    message = wire.text_field(1, service)
    try:
        answer = exchange(
            sock,
            deadline,
            _headers(authority(host, port), user_agent),
            body=b"\0" + len(message).to_bytes(4, "big") + message,
            limit_bytes=_LIMIT_BYTES,
        )
    except HttpTimeoutError:
        return "grpc request not finished within timeout"
    except HttpError as error:
        return f"grpc probe failed: {error}"
    return _judged(answer.status, answer.header("grpc-status"), answer.header("grpc-message"), answer.body)


def _connected(host: str, port: int, source_address: str, deadline: Deadline) -> socket.socket:
    dialing = Dialing(source_address=source_address, linger_s=_LINGER_S)
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


def _judged(status: int, grpc_status: str | None, grpc_message: str | None, body: bytes) -> str:
    if grpc_status is None:
        return f"grpc probe failed: HTTP status {status} without a grpc-status"
    if grpc_status == "12":
        return f"server does not implement the grpc health protocol (grpc.health.v1.Health): {grpc_message}"
    if grpc_status == "4":
        return "grpc request not finished within timeout"
    if grpc_status != "0":
        return f"grpc probe failed: status {grpc_status}: {grpc_message}"
    try:
        message = body[_FRAME_HEAD_BYTES:]
        serving = next((each.value for each in wire.fields(message) if each.number == 1), 0)
    except wire.WireError as error:
        return f"grpc probe failed: the answer is no HealthCheckResponse: {error}"
    return "" if serving == _SERVING else f"grpc probe failed: service status {serving}, expected SERVING (1)"
