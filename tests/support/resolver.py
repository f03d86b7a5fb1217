"""A small real name server on loopback, UDP and TCP, that also misbehaves on request; and a client."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset

from tests.support.real_envoy import free_ports

Twist = Callable[[bytes], bytes | None]
"""Changes a reply before it is sent; None: nothing is sent."""


@dataclass
class SmallResolver:
    """Answers A questions from `zone`; what is not in it is NXDOMAIN. Counts what it was asked."""

    zone: Mapping[str, list[str]] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0
    twist: Twist = lambda reply: reply
    truncates: bool = True  # to 512 bytes or what EDNS says, over UDP
    asked: list[tuple[str, str]] = field(default_factory=list)  # (protocol, name)
    queries: list[bytes] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)  # nothing is answered until it is set

    def __enter__(self) -> Self:
        self.held.set()
        self.port = self.port or free_dns_port(self.host)
        owner = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                reply = owner.reply("udp", data)
                if reply is not None:
                    with contextlib.suppress(OSError):
                        sock.sendto(reply, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                size = int.from_bytes(self.rfile.read(2), "big")
                reply = owner.reply("tcp", self.rfile.read(size)) if size else None
                if reply is not None:
                    self.wfile.write(len(reply).to_bytes(2, "big") + reply)

        udp_class = type("Udp", (_Threads, socketserver.UDPServer), {"address_family": self._family})
        self._udp = udp_class((self.host, self.port), Udp)
        tcp_class = type("Tcp", (_Threads, socketserver.TCPServer), {"address_family": self._family})
        self._tcp = tcp_class((self.host, self.port), Tcp)
        for server in (self._udp, self._tcp):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held.set()
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()

    def reply(self, protocol: str, data: bytes) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        self.queries.append(data)
        self.asked.append((protocol, question.name.to_text()))
        self.held.wait(30)
        reply = dns.message.make_response(query, recursion_available=True)
        addresses = self.zone.get(question.name.to_text().lower())
        if addresses is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == 1:
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", *addresses))
        raw = reply.to_wire(max_size=65535)
        limit = max(query.payload, 512) if protocol == "udp" else 65535
        if len(raw) > limit and self.truncates:
            del reply.answer[:]
            reply.flags |= dns.flags.TC
            raw = reply.to_wire()
        return self.twist(raw)

    @property
    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


class _Threads(socketserver.ThreadingMixIn):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True
    max_packet_size = 65535


@dataclass(frozen=True)
class Client:
    """Asks one DNS server."""

    port: int
    host: str = "127.0.0.1"

    def ask(
        self,
        name: str,
        kind: str = "A",
        *,
        protocol: str = "udp",
        within_s: float = 10.0,
        edns_bytes: int = 0,
    ) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=edns_bytes > 0, payload=edns_bytes)
        send = dns.query.tcp if protocol == "tcp" else dns.query.udp
        return send(query, self.host, port=self.port, timeout=within_s)

    def addresses(self, name: str, kind: str = "A", **more: object) -> list[str]:
        """Return the addresses of an answer, which must be NOERROR, sorted."""
        reply = self.ask(name, kind, **more)  # type: ignore[arg-type]
        assert reply.rcode() == dns.rcode.NOERROR, reply
        return sorted(item.address for rrset in reply.answer if rrset.rdtype in (1, 28) for item in rrset)


@contextmanager
def silent_name_server() -> Iterator[int]:
    """A port of UDP and TCP where nothing is ever answered."""
    port = free_dns_port()
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", port))
        tcp.bind(("127.0.0.1", port))
        tcp.listen()
        yield port


def free_dns_port(*hosts: str) -> int:
    """Return a port that is free for UDP and TCP on these addresses (127.0.0.1 if none is given)."""
    while True:
        (port,) = free_ports(1)
        with ExitStack() as stack:
            try:
                for host in hosts or ("127.0.0.1",):
                    family = socket.AF_INET6 if ":" in host else socket.AF_INET
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        stack.enter_context(socket.socket(family, kind)).bind((host, port))
            except OSError:
                continue
            return port
