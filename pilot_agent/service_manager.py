"""Tells systemd that the agent is up, alive and ending (sd_notify), where it asked for it.

Source: sd_notify(3): one datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names, an
abstract one if it begins with `@`. The reference does not do it; its unit is of type simple.
"""

import contextlib
import socket
import time
from collections.abc import MutableMapping
from typing import Self

from pilot_agent.log import get_logger

_log = get_logger()


class ServiceManager:
    """The one who started this process, if it wants to hear of it."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """Take the socket's name ("": nobody listens) and what silence counts as a hang (0: none)."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every_s = watchdog_s / 2
        self._next_s = 0.0
        self._said_ready = False

    @classmethod
    def take(cls, variables: MutableMapping[str, str], pid: int) -> Self:
        """Read the variables and remove them: Envoy and probe commands are not to speak for the agent.

        WATCHDOG_USEC counts for the process `pid` alone, if WATCHDOG_PID names one.
        """
        address = variables.pop("NOTIFY_SOCKET", "")
        watchdog_us, meant = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", "")
        is_meant = watchdog_us.isdigit() and meant in ("", str(pid))
        return cls(address, int(watchdog_us) / 1e6 if is_meant else 0.0)

    def look(self, *, all_ready: bool) -> None:
        """Say what is due: called several times a second, by whose thread must not hang."""
        if not self._address:
            return
        if all_ready and not self._said_ready:
            self._said_ready = True
            self._say("READY=1", "STATUS=all parts of the agent are up")
        if self._every_s and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + self._every_s
            self._say("WATCHDOG=1")

    def ending(self) -> None:
        """Say that the end has begun, once Envoy is told to drain."""
        if self._address:
            self._say("STOPPING=1", "STATUS=draining")

    def _say(self, *lines: str) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.setblocking(False)
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                _log.warn(
                    f"the service manager cannot be told {lines[0]}: {error.strerror}; it is not tried again"
                )
                self._address = ""
