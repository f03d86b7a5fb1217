"""One run at a time in a network namespace.

Two at once would both find nothing, and the one that fails would take back what the other made. The lock is
an abstract Unix socket: such a name belongs to the network namespace, whatever containers share it, and is
free again when its holder dies.
"""

import socket
import time
from types import TracebackType
from typing import Final, Self

from pilot_agent.log import get_logger

_NAME: Final = "\0pilot-agent-capture"
_PAUSE_S: Final = 0.02
_PATIENCE_S: Final = 30.0
"""As long as iptables waits for its own lock."""

_log = get_logger()


class Turn:
    """While it is entered, other runs wait; but not for ever: any program can hold a name."""

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._patience_s
        while not self._is_ours():
            if time.monotonic() > deadline:
                _log.warn(f"another run has been at work here for {self._patience_s:g} s, not waiting for it")
                break
            time.sleep(_PAUSE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _is_ours(self) -> bool:
        try:
            self._socket.bind(_NAME)
        except OSError:
            return False
        return True
