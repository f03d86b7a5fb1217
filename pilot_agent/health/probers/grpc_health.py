"""The gRPC probe: grpc.health.v1.Health/Check says SERVING.

Source: the reference's gRPC prober. Where it returns "not serving" without an error text, and then
crashes on the missing text, here a text is given.
"""

from typing import Final

from pilot_agent.environment import go_duration
from pilot_agent.health.grpc_check import SERVING, CallError, NotConnectedError, check
from pilot_agent.http import Dialing
from pilot_agent.http.dial import Deadline
from pilot_agent.rpc.status import Code

_STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_LINGER_S: Final = 1


def grpc_probe(host: str, port: int, service: str, *, timeout_s: float) -> str | None:
    """Return None for SERVING; one deadline bounds connect and call together."""
    dialing = Dialing(linger_s=_LINGER_S)
    try:
        status = check(
            host, port, service, user_agent="istio-probe/1.0", dialing=dialing, deadline=Deadline(timeout_s)
        )
    except NotConnectedError:
        return f"failed to connect health check grpc service on port {port}: context deadline exceeded"
    except CallError as error:
        return _failure(error, port, timeout_s)
    return None if status == SERVING else f"service not serving: {_STATUSES.get(status, status)}"


def _failure(error: CallError, port: int, timeout_s: float) -> str:
    if error.code is Code.UNIMPLEMENTED:
        service = "grpc.health.v1.Health"
        return f"service on port {port} doesn't implement the grpc health protocol {service}: {error}"
    if error.code is Code.DEADLINE_EXCEEDED:
        return f"health rpc probe timed out after {go_duration(timeout_s)}: {error}"
    return f"health rpc probe failed with status {error.code.go_name}: {error}"
