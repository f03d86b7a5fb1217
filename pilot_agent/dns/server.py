"""The DNS proxy's loop: clients over UDP and TCP on one side, name servers on the other."""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from pilot_agent.dns import responder
from pilot_agent.dns.listening import IP_PKTINFO, is_wildcard
from pilot_agent.dns.reactor import READ, Reactor
from pilot_agent.dns.responder import Query, Refusal
from pilot_agent.dns.tcp_clients import TcpClients
from pilot_agent.dns.upstream import Counters, Forwarder, UpstreamSettings
from pilot_agent.log import get_logger

if TYPE_CHECKING:
    from pilot_agent.dns.table import NameTable

_PACKETS_A_TURN: Final = 64
"""After so many the other sockets have their turn."""
_MAX_QUERY_BYTES: Final = 4096
_ANCILLARY_BYTES: Final = 64
_COUNTER: Final = "dns_requests_total"

_log = get_logger("dns")


class DnsServer:
    """Serves on `sockets` until `close`. The table may be replaced from any thread, at any time."""

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        settings: UpstreamSettings,
        counters: Counters,
        *,
        before_sync: bool = False,
    ) -> None:
        """Use sockets that do not block; they stay the caller's."""
        self.table: NameTable | None = None
        self._counters, self._before_sync = counters, before_sync
        self._reactor = Reactor()
        self._forwarder = Forwarder(self._reactor, settings, counters)
        self._closed = threading.Event()
        self._tcp: list[TcpClients] = []
        for sock in sockets:
            if sock.type == socket.SOCK_DGRAM:
                port = (_WildcardUdpPort if is_wildcard(sock) else _UdpPort)(sock, self._ask_udp)
                self._reactor.watch(sock, READ, port.readable)
            else:
                self._tcp.append(TcpClients(self._reactor, sock, self._ask_tcp))

    def run(self, turn_began: Callable[[], None] = lambda: None) -> None:
        """Serve; `turn_began` is called at each turn, a second apart at most."""
        while not self._closed.is_set():
            turn_began()
            self._reactor.turn()
        for clients in self._tcp:
            clients.close()
        self._forwarder.close()
        self._reactor.close()

    def close(self) -> None:
        """Have `run` return; from any thread."""
        self._closed.set()
        self._reactor.wake()

    def _ask_udp(self, data: bytes, reply: Callable[[bytes], None]) -> None:
        self._ask(data, reply, tcp=False)

    def _ask_tcp(self, data: bytes, reply: Callable[[bytes], None]) -> bool:
        return self._ask(data, reply, tcp=True)

    def _ask(self, data: bytes, reply: Callable[[bytes], None], *, tcp: bool) -> bool:
        """Answer or forward; return whether there is, or will be, a reply."""
        query = responder.read_query(data, tcp=tcp)
        if query is None:
            return False
        if isinstance(query, Refusal):
            reply(query.reply)
            return True
        self._counters.count(_COUNTER)
        table = self.table
        if table is None and not self._before_sync:
            reply(responder.failure(query))
            return True
        answer = responder.answer(query, table)
        if answer is not None:
            reply(answer)
        else:
            self._forward(query, reply, tcp=tcp)
        return True

    def _forward(self, query: Query, reply: Callable[[bytes], None], *, tcp: bool) -> None:
        if _log.enabled("debug"):
            _log.debug(f"{query.question.name.decode(errors='replace')} is not known: forwarded")
        self._forwarder.forward(query, reply, tcp=tcp)


class _UdpPort:
    """One UDP socket; a reply that the kernel does not take is lost, as any datagram may be."""

    def __init__(self, sock: socket.socket, ask: Callable[[bytes, Callable[[bytes], None]], None]) -> None:
        self._socket, self._ask = sock, ask

    def readable(self) -> None:
        for _ in range(_PACKETS_A_TURN):
            try:
                data, reply = self._next()
            except BlockingIOError:
                return
            except OSError as error:  # an earlier reply found nobody
                _log.debug(f"read: {error}")
                continue
            self._ask(data, reply)

    def _next(self) -> tuple[bytes, Callable[[bytes], None]]:
        data, client = self._socket.recvfrom(_MAX_QUERY_BYTES)
        return data, lambda reply: self._send(reply, client)

    def _send(self, reply: bytes, client: Any) -> None:  # Any: an address, as its family has it
        try:
            self._socket.sendto(reply, client)
        except OSError as error:
            _log.debug(f"reply to {client}: {error}")


class _WildcardUdpPort(_UdpPort):
    """A socket on all addresses: the reply leaves from the one that was asked."""

    def _next(self) -> tuple[bytes, Callable[[bytes], None]]:
        data, ancillary, _, client = self._socket.recvmsg(_MAX_QUERY_BYTES, _ANCILLARY_BYTES)
        source = [_source(*item) for item in ancillary if _is_destination(item)]
        return data, lambda reply: self._send_from(reply, source, client)

    def _send_from(self, reply: bytes, source: list[tuple[int, int, bytes]], client: Any) -> None:
        try:
            self._socket.sendmsg([reply], source, 0, client)
        except OSError as error:
            _log.debug(f"reply to {client}: {error}")


def _is_destination(item: tuple[int, int, bytes]) -> bool:
    return item[:2] in ((socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO))


def _source(level: int, kind: int, data: bytes) -> tuple[int, int, bytes]:
    """Return the control message that makes a reply leave from where its query came to.

    in_pktinfo is interface, local address, destination; in6_pktinfo is destination, interface.
    """
    if level == socket.IPPROTO_IP:
        return level, kind, bytes(4) + data[8:12] + bytes(4)
    return level, kind, data
