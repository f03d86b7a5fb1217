"""The TCP probe: who accepts is well."""

from typing import Final

from pilot_agent.http import ConnectError, Dialing, HttpTimeoutError
from pilot_agent.http.dial import Deadline, connect
from pilot_agent.http.errors import authority

_LINGER_S: Final = 1


def tcp_probe(host: str, port: int, *, timeout_s: float) -> str | None:
    """Return None when the connection is accepted within `timeout_s`, else why not."""
    try:
        connect(host, port, Deadline(timeout_s), Dialing(linger_s=_LINGER_S)).close()
    except HttpTimeoutError:
        return f"dial tcp {authority(host, port)}: i/o timeout"
    except ConnectError as error:
        return str(error)
    return None
