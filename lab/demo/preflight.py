"""What must be true before anything is started; each thing that is not is one line."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

from lab.envoy_binary import EnvoyMissingError, find_envoy


def complaints(ports: Mapping[int, str]) -> Iterator[str]:
    """Yield one line for everything that keeps the demo from starting."""
    if sys.version_info < (3, 11):  # noqa: UP036 - DEMO_PYTHON may be any
        yield f"Python 3.11 or newer is needed, this is {sys.version.split()[0]} ({sys.executable})"
    if sys.platform != "linux":
        yield f"Linux is needed (pidfd, memfd, Envoy's hot restart), this is {sys.platform}"
        return
    yield from _envoy()
    yield from _ports(ports)


def _envoy() -> Iterator[str]:
    try:
        path = find_envoy()
        subprocess.run([path, "--version"], check=True, capture_output=True, timeout=30)
    except EnvoyMissingError as error:
        yield str(error)
    except (OSError, subprocess.SubprocessError) as error:
        yield f"Envoy does not run here: {error}"


def _ports(ports: Mapping[int, str]) -> Iterator[str]:
    impossible = [port for port in ports if not 0 < port < 1 << 16]
    if impossible:
        yield f"port {max(impossible, key=abs)} does not exist: take a smaller --port-shift"
        return
    taken = [f"{port} ({purpose})" for port, purpose in sorted(ports.items()) if not _is_free(port)]
    if taken:
        noun = "port" if len(taken) == 1 else "ports"
        yield f"{noun} {', '.join(taken)} taken: free them, or move all, as with bin/demo --port-shift 1000"


def _is_free(port: int) -> bool:
    """Return whether a server could listen there, on loopback and on all addresses."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
    return True
