"""Routes and addresses beside the rules: what TPROXY delivers must be taken for local; `::6` must exist.

All of it is looked up first, so that a second run adds nothing, and all of it can be undone.
"""

import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from pilot_agent.capture.errors import ConfigurationError, ExecutionError
from pilot_agent.capture.netlink import FwmarkRule, Netlink
from pilot_agent.capture.options import CaptureOptions
from pilot_agent.gotext import quote

_SOURCE: Final = "::6"
_BITS: Final = 128
_LOOPBACK: Final = "lo"
_WHOLE_MASK: Final = 0xFFFFFFFF
_RESERVED_TABLES: Final = frozenset({0, 253, 254, 255})

Undo = Callable[[Netlink], object]


class TproxyRoute(NamedTuple):
    """Packets with this mark are looked up in this table."""

    mark: int
    table: int


def tproxy_route(options: CaptureOptions) -> TproxyRoute | None:
    """Return what TPROXY needs; None when nothing inbound is captured so.

    Raises:
        ConfigurationError: mark or table is no number, the mark is 0, which every packet without a mark
            has, or the table is one of the kernel's own: everything would become local. The text names the
            flag.
    """
    if not (options.tproxy and options.captures_inbound):
        return None
    settings = options.settings
    mark = _number("--istio-inbound-tproxy-mark", settings.inbound_tproxy_mark)
    table = _number("--istio-inbound-tproxy-route-table", settings.inbound_tproxy_route_table)
    if mark == 0:
        raise ConfigurationError(
            "--istio-inbound-tproxy-mark: 0 is the mark of every packet that has none: every address would "
            "become a local one"
        )
    if table in _RESERVED_TABLES:
        raise ConfigurationError(
            f"--istio-inbound-tproxy-route-table: {table} is a routing table of the system: every address "
            "would become a local one"
        )
    return TproxyRoute(mark, table)


class Routes:
    """The routes of one run; `undo` takes back what this run has added."""

    def __init__(self) -> None:
        self._undo: list[Undo] = []

    def configure(self, route: TproxyRoute | None, *, ipv6: bool) -> list[str]:
        """Add what is missing and return a line for the log for each thing that is there now.

        Raises:
            ExecutionError: the kernel refused.
        """
        said = []
        try:
            with Netlink() as netlink:
                interface = socket.if_nametoindex(_LOOPBACK)
                if ipv6:
                    self._add_source(netlink, interface)
                    said.append(f"Added {_SOURCE} address on the loopback iface")
                for family in (4, 6) if ipv6 else (4,):
                    if route is not None:
                        self._add_route(netlink, family, route, interface)
        except OSError as error:
            raise ExecutionError(f"cannot configure routes and addresses: {error.strerror}") from error
        return said

    def remove_stale(self, marks: Iterable[int], kept: TproxyRoute | None, *, ipv6: bool) -> None:
        """Remove what runs with other flags have made for `marks` and this one does not want.

        It comes before the rules that tell these marks go: after a kill, nobody would know them any more.

        Raises:
            ExecutionError: the kernel refused.
        """
        wanted = set(marks)
        if not wanted:
            return
        try:
            with Netlink() as netlink:
                interface = socket.if_nametoindex(_LOOPBACK)
                for family in (4, 6) if ipv6 else (4,):
                    _remove_family(netlink, family, wanted, interface, kept=kept, undo=self._undo)
        except OSError as error:
            raise ExecutionError(f"cannot remove routes of an earlier run: {error.strerror}") from error

    def undo(self) -> None:
        """Take back, last first, what was added; what cannot be taken back any more is left."""
        if not self._undo:
            return
        with Netlink() as netlink:
            for step in reversed(self._undo):
                try:
                    step(netlink)
                except OSError:
                    continue

    def _add_source(self, netlink: Netlink, interface: int) -> None:
        if not netlink.has_address(6, _SOURCE) and netlink.add_address(6, _SOURCE, _BITS, interface):
            self._undo.append(lambda again: again.delete_address(6, _SOURCE, _BITS, interface))

    def _add_route(self, netlink: Netlink, family: int, route: TproxyRoute, interface: int) -> None:
        wanted = FwmarkRule(family, route.mark, _WHOLE_MASK, route.table, 0)
        if not any(rule._replace(priority=0) == wanted for rule in netlink.rules(family)):
            netlink.add_rule(wanted)
            self._undo.append(lambda again: again.delete_rule(wanted))
        if netlink.add_local_default(family, route.table, interface):
            self._undo.append(lambda again: again.delete_local_default(family, route.table, interface))


def remove_routes(marks: Iterable[int]) -> None:
    """Remove what any run could have made for these marks, and the address.

    A rule is ours if its table holds the local default route of TPROXY and nothing else.
    """
    wanted = set(marks)
    with Netlink() as netlink:
        interface = socket.if_nametoindex(_LOOPBACK)
        for family in (4, 6):
            try:
                _remove_family(netlink, family, wanted, interface, kept=None, undo=[])
            except OSError:
                continue  # a kernel without this family has none of ours
        try:
            netlink.delete_address(6, _SOURCE, _BITS, interface)
        except OSError:
            return


def _remove_family(
    netlink: Netlink,
    family: int,
    marks: set[int],
    interface: int,
    *,
    kept: TproxyRoute | None,
    undo: list[Undo],
) -> None:
    routes = netlink.routes(family)
    for rule in netlink.rules(family):
        in_table = [route for route in routes if route.table == rule.table]
        is_tproxy = all(route.local_default and route.interface == interface for route in in_table)
        if kept is not None and (rule.mark, rule.table) == kept:
            continue
        if rule.mark in marks and rule.table not in _RESERVED_TABLES and is_tproxy:
            # The route first: after a kill in between, the rule still tells that something is left.
            shared = kept is not None and rule.table == kept.table
            if not shared and netlink.delete_local_default(family, rule.table, interface):
                undo.append(
                    partial(Netlink.add_local_default, family=family, table=rule.table, interface=interface)
                )
            if netlink.delete_rule(rule):
                undo.append(partial(Netlink.add_rule, rule=rule))


def _number(flag: str, text: str) -> int:
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 12 and int(digits) <= _WHOLE_MASK):
        raise ConfigurationError(f"{flag}: strconv.Atoi: parsing {quote(text)}: invalid syntax")
    return int(digits)
