"""Finds out with a real connection whether capture works, as `--run-validation` asks.

A connection from the loopback to an address that only the proxy uses must arrive at one of the proxy's
ports, and the kernel must remember where it was sent to. It works for the proxy's own user alone: the rules
let everybody else's loopback traffic pass.
"""

import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from pilot_agent.capture.errors import ConfigurationError, ValidationError
from pilot_agent.capture.options import CaptureSettings
from pilot_agent.gotext import quote
from pilot_agent.log import get_logger

_SO_ORIGINAL_DST: Final = 80
_PERIOD_S: Final = 1.0
_FAILED: Final = (
    "iptables validation failed; workload is not ready for Istio.\n"
    "With Istio CNI this happens when a pod starts before the plugin is ready on its node.\n"
    "If the plugin repairs such pods ('cni.repair.deletePods=true'), this one is deleted and made anew; "
    "otherwise delete it, so that it is scheduled on a node where istio-cni runs and makes the rules."
)

_log = get_logger()


def validate(settings: CaptureSettings, *, ipv6: bool) -> None:
    """Return as soon as a connection was captured.

    Raises:
        ValidationError: none was, within the timeout, or nothing could be listened on.
        ConfigurationError: a port is no number.
    """
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    local, target = ("::1", "::6") if ipv6 else ("127.0.0.1", "127.0.0.6")
    ports = [_port("--envoy-port", settings.envoy_port)]
    ports.append(_port("--inbound-capture-port", settings.inbound_capture_port))
    _log.info(
        f"Starting iptables validation. Trying {target} port {settings.iptables_probe_port} for "
        f"{settings.probe_timeout_s:g} s"
    )
    listeners = _listen(family, local, ports)
    probe = _Probe(family, local, (target, settings.iptables_probe_port))
    try:
        _wait(listeners, probe, time.monotonic() + settings.probe_timeout_s)
    finally:
        probe.close()
        for listener in listeners:
            listener.close()
    _log.info("Validation passed, iptables rules established")


class _Probe:
    """One connection at a time, begun anew each second; how it ends does not matter."""

    def __init__(self, family: int, local: str, target: tuple[str, int]) -> None:
        self._family, self._local, self._target = family, local, target
        self.port = target[1]
        self._connection: socket.socket | None = None
        self.due = time.monotonic()

    def send(self) -> None:
        self.close()
        self.due = time.monotonic() + _PERIOD_S
        self._connection = socket.socket(self._family, socket.SOCK_STREAM)
        self._connection.setblocking(False)
        try:
            self._connection.bind((self._local, 0))
            self._connection.connect_ex(self._target)
        except OSError as error:
            _log.debug(f"cannot send a probe: {error}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _wait(listeners: Sequence[socket.socket], probe: _Probe, deadline: float) -> None:
    while (now := time.monotonic()) < deadline:
        if now >= probe.due:
            probe.send()
        timeout_s = max(min(probe.due, deadline) - now, 0.0)
        for listener in select.select(listeners, (), (), timeout_s)[0]:
            if _is_captured(listener, probe):
                return
    raise ValidationError(_FAILED)


def _is_captured(listener: socket.socket, probe: _Probe) -> bool:
    try:
        connection, _ = listener.accept()
    except OSError:
        return False
    with connection:
        port = _original_port(connection)
        try:
            connection.sendall(str(port).encode())
        except OSError:
            _log.debug("the probe was gone before it was answered")
    return port == probe.port


def _original_port(connection: socket.socket) -> int:
    """Return the port to which a connection was sent before the kernel redirected it; 0: it was not."""
    level = socket.IPPROTO_IPV6 if connection.family == socket.AF_INET6 else socket.IPPROTO_IP
    try:
        address = connection.getsockopt(level, _SO_ORIGINAL_DST, 28)
    except OSError:
        return 0
    port: int = struct.unpack_from("!H", address, 2)[0]
    return port


def _listen(family: int, local: str, ports: Sequence[int]) -> list[socket.socket]:
    listeners = []
    for port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((local, port))
            listener.listen()
        except OSError as error:
            listener.close()
            _log.error(f"Listening on {local}:{port} failed: {error.strerror}")
            continue
        listener.setblocking(False)
        _log.info(f"Listening on {local}:{port}")
        listeners.append(listener)
    if not listeners:
        raise ValidationError(f"{_FAILED}\nNone of the ports {ports} could be listened on.")
    return listeners


def _port(flag: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ConfigurationError(f"{flag}: {quote(text)} is no port")
    return int(text)
