"""The gRPC probe of the injector: what it asks, and what stands in the log when it fails."""

from typing import Final

from pilot_agent.health.grpc_check import SERVING, CallError, NotConnectedError, check
from pilot_agent.http import Dialing
from pilot_agent.http.dial import Deadline
from pilot_agent.rpc.status import Code

_LINGER_S: Final = 1


def probe(
    host: str, port: int, service: str, *, user_agent: str, source_address: str, timeout_s: float
) -> str:
    """Return "" for SERVING, else what stands in the log. One deadline bounds connect and call."""
    dialing = Dialing(source_address=source_address, linger_s=_LINGER_S)
    try:
        status = check(
            host, port, service, user_agent=user_agent, dialing=dialing, deadline=Deadline(timeout_s)
        )
    except NotConnectedError as error:
        return f"Failed to create grpc connection to probe app: {error}"
    except CallError as error:
        return _failure(error)
    return "" if status == SERVING else f"grpc probe failed: service status {status}, expected SERVING (1)"


def _failure(error: CallError) -> str:
    if error.code is Code.UNIMPLEMENTED:
        return f"server does not implement the grpc health protocol (grpc.health.v1.Health): {error.details}"
    if error.code is Code.DEADLINE_EXCEEDED:
        return "grpc request not finished within timeout"
    return f"grpc probe failed: {error}"
