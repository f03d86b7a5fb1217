"""Envoy's admin interface, as far as its life is concerned."""

from collections.abc import Iterable
from typing import Final

import msgspec

from pilot_agent.http.client import Response, fetch
from pilot_agent.http.errors import HttpError, authority

_ANSWER_LIMIT_BYTES: Final = 4 * 1024 * 1024
_STATS: Final = "/stats?usedonly&filter=downstream_cx_active$"
_SUFFIX: Final = ".downstream_cx_active"


class AdminError(Exception):
    """Envoy's admin interface did not answer, or not as expected; asking again later may help."""


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers on an admin port, and how far it is."""

    state: str  # LIVE, DRAINING, PRE_INITIALIZING, INITIALIZING
    base_id: int  # 0 without hot restart
    epoch: int


class _CommandLineOptions(msgspec.Struct, frozen=True, kw_only=True):
    base_id: int | str
    restart_epoch: int | str


class _ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of the answer; the other 120 KB of it become no objects."""

    state: str
    command_line_options: _CommandLineOptions


class _SocketAddress(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    port_value: int = 0
    protocol: str = "TCP"


class _Address(msgspec.Struct, frozen=True, kw_only=True):
    socket_address: _SocketAddress | None = None


class _Listener(msgspec.Struct, frozen=True, kw_only=True):
    local_address: _Address
    additional_local_addresses: tuple[_Address, ...] = ()


class _Listeners(msgspec.Struct, frozen=True, kw_only=True):
    listener_statuses: tuple[_Listener, ...] = ()


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """One admin listener. Every call may block up to its own time limit."""

    host: str
    port: int

    def server_info(self, *, timeout_s: float) -> ServerInfo:
        """Ask who is there.

        Raises:
            AdminError: no answer, or none that says so.
        """
        answer = self._call("GET", "/server_info", timeout_s)
        try:
            info = msgspec.json.decode(answer.body, type=_ServerInfo)
            options = info.command_line_options
            return ServerInfo(
                state=info.state, base_id=int(options.base_id), epoch=int(options.restart_epoch)
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise AdminError(f"/server_info: status {answer.status}, unexpected answer: {error!r}") from error

    def is_live(self, *, timeout_s: float) -> bool:
        """Ask whether whoever has the port is LIVE: a few bytes, where /server_info costs Envoy 120 KB."""
        try:
            return self._call("GET", "/ready", timeout_s).body.strip() == b"LIVE"
        except AdminError:
            return False

    def drain_listeners(self, *, inbound_only: bool, skip_exit: bool, timeout_s: float) -> None:
        """Let Envoy drain gracefully. The answer's status does not matter, as in the reference.

        Raises:
            AdminError: the request was not taken.
        """
        words = [
            word
            for word, on in (("inboundonly", inbound_only), ("graceful", True), ("skip_exit", skip_exit))
            if on
        ]
        self._call("POST", f"/drain_listeners?{'&'.join(words)}", timeout_s)

    def listening(self, *, timeout_s: float) -> list[str]:
        """Return the addresses of its listeners, as "tcp://ADDRESS:PORT"; datagrams and pipes are left out.

        Raises:
            AdminError: no answer, or none that says so.
        """
        answer = self._call("GET", "/listeners?format=json", timeout_s)
        try:
            statuses = msgspec.json.decode(answer.body, type=_Listeners).listener_statuses
        except msgspec.MsgspecError as error:
            raise AdminError(f"/listeners: status {answer.status}, unexpected answer: {error!r}") from error
        addresses = [
            each for one in statuses for each in (one.local_address, *one.additional_local_addresses)
        ]
        found = [each.socket_address for each in addresses if each.socket_address is not None]
        return [
            f"tcp://{authority(each.address, each.port_value)}" for each in found if each.protocol == "TCP"
        ]

    def active_connections(self, *, own_ports: Iterable[int], timeout_s: float) -> int | None:
        """Count the connections of applications; None when Envoy has no such statistics.

        Raises:
            AdminError: no answer.
        """
        body = self._call("GET", _STATS, timeout_s).body.decode("utf-8", "replace")
        return count_active(body, own_ports) if body.strip() else None

    def _call(self, method: str, target: str, timeout_s: float) -> Response:
        try:
            return fetch(
                self.host, self.port, method, target, timeout_s=timeout_s, limit_bytes=_ANSWER_LIMIT_BYTES
            )
        except HttpError as error:
            raise AdminError(str(error)) from error


def count_active(stats: str, own_ports: Iterable[int]) -> int:
    """Add up the `downstream_cx_active` lines of listeners that serve applications.

    Left out are workers (already in the sum), internal listeners, the admin and `own_ports`. The reference
    compares with `0.0.0.0_PORT` alone, so a scrape keeps an IPv6 node alive; here any address counts.

    Source: the reference's drain with EXIT_ON_ZERO_ACTIVE_CONNECTIONS.
    """
    own_ends = tuple(f"_{port}{_SUFFIX}" for port in own_ports)
    total = 0
    for line in stats.splitlines():
        name, _, value = line.rpartition(":")
        if name.endswith(own_ends) or not _is_application(name):
            continue
        total += int(value) if value.strip().isdecimal() else 0
    return total


def _is_application(name: str) -> bool:
    skipped = ("listener.envoy_internal_", "listener.admin.")
    return name.startswith("listener.") and "worker_" not in name and not name.startswith(skipped)
