"""The statsd address: its host becomes an IP address once, at the start (Envoy resolves no name there)."""

import ipaddress
import sys
from collections.abc import Callable, Sequence
from typing import Final

from pilot_agent.proxyconfig.hostport import is_ip, join_host_port, split_host_port

_LIMIT_S: Final = 15.0
_PROGRAM: Final = (
    "import socket, sys\n"
    "for entry in socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_DGRAM): print(entry[4][0])"
)


def resolved(address: str, look_up: Callable[[str], Sequence[str]] | None = None) -> str:
    """Return `host:port` with the host as an IP address: the first IPv4 one, else the last one found.

    Raises:
        ValueError: the text has no port, the name is unknown, or the answer took more than 15 s.
    """
    host, port = split_host_port(address)
    if is_ip(host):
        return join_host_port(host, port)
    found = (look_up or look_up_name)(host)
    if not found:
        raise ValueError(f"lookup {host}: no such host")
    ipv4 = (text for text in found if ipaddress.ip_address(text).version == 4)
    return join_host_port(next(ipv4, found[-1]), port)


def look_up_name(host: str) -> list[str]:
    """Return the addresses of a name, asked for in a program of its own.

    The C library's resolver has no time limit, and a thread that hangs in it would be there still when
    the supervisor forks its first actor.
    """
    import subprocess  # noqa: PLC0415  # few have a statsd, and all would pay for the import

    command = (sys.executable, "-I", "-S", "-c", _PROGRAM, host)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"lookup {host}: no answer within {_LIMIT_S:.0f} s") from None
    if done.returncode:
        reason = (
            done.stderr.strip().rpartition("\n")[2].rpartition("] ")[2] or f"exit status {done.returncode}"
        )
        raise ValueError(f"lookup {host}: {reason}")
    return [line.partition("%")[0] for line in done.stdout.split()]
