"""The gRPC probe: grpc.health.v1.Health/Check says SERVING.

Source: the reference's gRPC prober. Where it returns "not serving" without an error text, and then
crashes on the missing text, here a text is given.
"""

from typing import Final

import grpc

from pilot_agent import wire
from pilot_agent.environment import go_duration
from pilot_agent.http.dial import Deadline
from pilot_agent.http.errors import HttpTimeoutError, authority

_METHOD: Final = "/grpc.health.v1.Health/Check"
_STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING: Final = 1
_OPTIONS: Final = (
    ("grpc.primary_user_agent", "istio-probe/1.0"),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each probe
    ("grpc.initial_reconnect_backoff_ms", 100),  # an application that comes up is seen at once
)


def grpc_probe(host: str, port: int, service: str, *, timeout_s: float) -> str | None:
    """Return None for SERVING; one deadline bounds connect and call together."""
    deadline = Deadline(timeout_s)
    with grpc.insecure_channel(_target(host, port), options=_OPTIONS) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=timeout_s)
            left_s = deadline.remaining_s()
        except (grpc.FutureTimeoutError, HttpTimeoutError):
            return f"failed to connect health check grpc service on port {port}: context deadline exceeded"
        try:
            check = channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes)
            answer = check(wire.text_field(1, service), timeout=left_s)
        except grpc.RpcError as error:
            return _rpc_error(error, port, timeout_s)
    return _serving_error(answer)


def _target(host: str, port: int) -> str:
    return authority(host, port)


def _serving_error(answer: bytes) -> str | None:
    try:
        status = next((each.value for each in wire.fields(answer) if each.number == 1), 0)
    except wire.WireError as error:
        return f"health rpc probe failed: the answer is no HealthCheckResponse: {error}"
    return None if status == _SERVING else f"service not serving: {_STATUSES.get(status, status)}"


def _rpc_error(error: grpc.RpcError, port: int, timeout_s: float) -> str:
    code, details = _code(error)
    name = _go_name(code)
    text = f"rpc error: code = {name} desc = {details}"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"service on port {port} doesn't implement the grpc health protocol grpc.health.v1.Health: {text}"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"health rpc probe timed out after {go_duration(timeout_s)}: {text}"
    return f"health rpc probe failed with status {name}: {text}"


def _code(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, grpc.Call):
        return error.code(), error.details() or ""
    return grpc.StatusCode.UNKNOWN, str(error)


def _go_name(code: grpc.StatusCode) -> str:
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return "".join(part.capitalize() for part in code.name.split("_"))
