"""The DNS proxy on real sockets, before real name servers."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.dns.listening import adopt, bind
from pilot_agent.dns.naming import Naming
from pilot_agent.dns.options import DnsError
from pilot_agent.dns.server import DnsServer
from pilot_agent.dns.table import NameTable
from pilot_agent.dns.tcp_clients import CLIENTS_LIMIT
from pilot_agent.dns.upstream import UpstreamSettings
from tests.support.name_tables import Host, table_of
from tests.support.resolver import Client, SmallResolver, free_dns_port, silent_name_server
from tests.support.waiting import wait_for

NAMING = Naming.of(namespace="ns1", domain="ns1.svc.cluster.local", search=("ns1.svc.cluster.local",))
BIG = [f"10.2.0.{n}" for n in range(100, 160)]
TABLE = table_of(
    {
        "details.ns2.svc.cluster.local": Host(["1.2.3.4"], "Kubernetes", "details", "ns2"),
        "big.example": Host(BIG, "External"),
    },
    NAMING,
)
ZONE = {"istio.io.": ["5.6.7.8"], "big.io.": BIG}
PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "tcp"])


@dataclass
class Counted:
    values: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        key = name + "".join(f"{{{label}={text}}}" for label, text in labels.items())
        self.values[key] = self.values.get(key, 0.0) + value


@dataclass
class Proxy:
    server: DnsServer
    port: int
    counted: Counted

    @property
    def client(self) -> Client:
        return Client(self.port)


@contextmanager
def proxy(
    *servers: str,
    port: int = 9,
    table: NameTable | None = TABLE,
    host: str = "127.0.0.1",
    before_sync: bool = False,
    **more: object,
) -> Iterator[Proxy]:
    sockets, counted = bind([(host, free_dns_port(host))]), Counted()
    upstream = UpstreamSettings(name_servers=servers, port=port, **more)  # type: ignore[arg-type]
    server = DnsServer(sockets, upstream, counted, before_sync=before_sync)
    server.table = table
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Proxy(server, sockets[0].getsockname()[1], counted)
    finally:
        server.close()
        thread.join(5)
        for sock in sockets:
            sock.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def resolver() -> Iterator[SmallResolver]:
    with SmallResolver(ZONE) as resolver:
        yield resolver


@pytest.fixture(params=[False, True], ids=["one by one", "parallel"])
def running(request: pytest.FixtureRequest, resolver: SmallResolver) -> Iterator[Proxy]:
    with proxy("127.0.0.1", port=resolver.port, parallel=request.param) as made:
        yield made


@PROTOCOLS
def test_known_names_are_answered_here_and_others_by_the_name_server(
    running: Proxy, resolver: SmallResolver, protocol: str
) -> None:
    before = len(resolver.asked)
    assert running.client.addresses("details.ns2.", protocol=protocol) == ["1.2.3.4"]
    assert running.client.addresses("details.ns2.", "AAAA", protocol=protocol) == []
    assert len(resolver.asked) == before
    assert running.client.addresses("istio.io.", protocol=protocol) == ["5.6.7.8"]
    assert resolver.asked[before:] == [(protocol, "istio.io.")]
    unknown = running.client.ask("nobody.io.", protocol=protocol)
    assert unknown.rcode() == dns.rcode.NXDOMAIN
    assert running.client.ask("details.ns2.", "MX", protocol=protocol).rcode() == dns.rcode.NXDOMAIN

    values = running.counted.values
    assert values["dns_requests_total"] == 5
    assert values["dns_upstream_requests_total"] == 3
    assert "dns_upstream_failures_total" not in values
    assert values["dns_upstream_request_duration_seconds_count"] == 3
    assert values["dns_upstream_request_duration_seconds_bucket{le=+Inf}"] == 3
    assert list(values)[-9:-3] == [
        f"dns_upstream_request_duration_seconds_bucket{{le={bound}}}"
        for bound in ("0.001", "0.005", "0.01", "0.1", "1", "5")
    ]


@PROTOCOLS
def test_the_query_and_its_reply_pass_byte_for_byte(
    running: Proxy, resolver: SmallResolver, protocol: str
) -> None:
    query = dns.message.make_query("istio.io.", "A", use_edns=True, payload=1400, want_dnssec=True)
    send = dns.query.udp if protocol == "udp" else dns.query.tcp
    reply = send(query, "127.0.0.1", port=running.port, timeout=5)
    assert resolver.queries[-1] == query.to_wire()
    assert reply.flags & dns.flags.RA
    assert reply.opt is not None


def test_what_is_too_large_for_udp_is_truncated_or_fails_as_with_the_reference(
    resolver: SmallResolver,
) -> None:
    with proxy("127.0.0.1", port=resolver.port) as running:
        own = running.client.ask("big.example.")
        assert own.flags & dns.flags.TC
        assert 20 < len(own.answer[0]) < 60
        assert running.client.addresses("big.example.", edns_bytes=4096) == BIG
        assert running.client.addresses("big.example.", protocol="tcp") == BIG
        assert running.client.ask("big.io.").flags & dns.flags.TC  # as the name server said
        assert running.client.addresses("big.io.", edns_bytes=4096) == BIG
        assert running.client.addresses("big.io.", protocol="tcp") == BIG
    with SmallResolver(ZONE, truncates=False) as careless, proxy("127.0.0.1", port=careless.port) as running:
        assert running.client.ask("big.io.").rcode() == dns.rcode.SERVFAIL
        assert running.client.addresses("big.io.", edns_bytes=4096) == BIG


@PROTOCOLS
def test_without_a_table_it_is_servfail_or_forwarded_where_port_53_is_ours(
    resolver: SmallResolver, protocol: str
) -> None:
    with proxy("127.0.0.1", port=resolver.port, table=None) as running:
        assert running.client.ask("istio.io.", protocol=protocol).rcode() == dns.rcode.SERVFAIL
        assert running.counted.values == {"dns_requests_total": 1}
    with proxy("127.0.0.1", port=resolver.port, table=None, before_sync=True) as running:
        assert running.client.addresses("istio.io.", protocol=protocol) == ["5.6.7.8"]


@PROTOCOLS
@pytest.mark.parametrize("parallel", [False, True], ids=["one by one", "parallel"])
def test_without_a_name_server_it_is_servfail(protocol: str, parallel: bool) -> None:
    with proxy(parallel=parallel) as running:
        assert running.client.ask("istio.io.", protocol=protocol).rcode() == dns.rcode.SERVFAIL
        assert running.counted.values["dns_upstream_failures_total"] == 1


@PROTOCOLS
@pytest.mark.parametrize(
    "odd",
    [
        "a..b",
        "x" * 70,
        "\ufffd",
        "1.2.3.4\0",
        "[::1]",
        "localhost",
        "fe80::1%none",
        "1.2.3.4:53",
        "224.0.0.1",
    ],
)
def test_a_name_server_that_fails_at_once_or_is_no_address_has_failed_and_the_next_one_is_asked(
    odd: str, protocol: str, resolver: SmallResolver
) -> None:
    # A datagram to a group leaves, and nothing says that nobody will answer.
    timeout_s = 0.2 if (odd, protocol) == ("224.0.0.1", "udp") else 5.0
    with proxy(odd, "127.0.0.1", port=resolver.port, timeout_s=timeout_s) as running:
        for _ in range(4):  # in random order
            assert running.client.addresses("istio.io.", protocol=protocol) == ["5.6.7.8"]
    with proxy(odd, port=resolver.port, timeout_s=timeout_s) as alone:
        assert alone.client.ask("istio.io.", protocol=protocol).rcode() == dns.rcode.SERVFAIL


TWISTS: Mapping[str, Callable[[bytes], bytes | None]] = {
    "half a reply": lambda raw: raw[: len(raw) // 2],
    "a header that promises more": lambda raw: raw[:6] + b"\xff\xff" + raw[8:],
    "two bytes": lambda raw: raw[:2],
    "names in a loop": lambda raw: raw[:12] + b"\xc0\x0c" + raw[14:],
}


@PROTOCOLS
@pytest.mark.parametrize("twist", TWISTS.values(), ids=TWISTS.keys())
def test_a_name_server_that_talks_nonsense_has_failed_and_the_next_one_is_asked(
    twist: Callable[[bytes], bytes | None], protocol: str
) -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(SmallResolver(ZONE, twist=twist))
        good = stack.enter_context(SmallResolver(ZONE, host="127.0.0.2", port=bad.port))
        both = stack.enter_context(proxy("127.0.0.1", "127.0.0.2", port=bad.port))
        for _ in range(8):
            assert both.client.addresses("istio.io.", protocol=protocol) == ["5.6.7.8"]
        assert bad.asked
        assert good.asked
        assert "dns_upstream_failures_total" not in both.counted.values
        alone = stack.enter_context(proxy("127.0.0.1", port=bad.port))
        assert alone.client.ask("istio.io.", protocol=protocol).rcode() == dns.rcode.SERVFAIL
        assert alone.counted.values["dns_upstream_failures_total"] == 1


@pytest.mark.parametrize(
    "twist",
    [
        lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
        lambda raw: raw[:13] + b"X" + raw[14:],
        lambda raw: raw[:2] + bytes([raw[2] & 0x7F]) + raw[3:],
    ],
    ids=["another id", "another question", "a query"],
)
def test_a_udp_reply_to_something_else_is_not_taken_and_waited_over(twist: Callable[[bytes], bytes]) -> None:
    with (
        SmallResolver(ZONE, twist=twist) as forger,
        proxy("127.0.0.1", port=forger.port, timeout_s=0.3) as running,
    ):
        began_s = time.monotonic()
        assert running.client.ask("istio.io.").rcode() == dns.rcode.SERVFAIL
        assert 0.3 <= time.monotonic() - began_s < 2


@PROTOCOLS
@pytest.mark.parametrize("parallel", [False, True], ids=["one by one", "parallel"])
def test_a_silent_name_server_costs_its_time_out_and_no_other_query_waits_for_it(
    protocol: str, parallel: bool
) -> None:
    with (
        silent_name_server() as port,
        proxy("127.0.0.1", port=port, timeout_s=1.0, parallel=parallel) as running,
    ):
        replies: list[dns.message.Message] = []
        waiting = threading.Thread(
            target=lambda: replies.append(running.client.ask("istio.io.", protocol=protocol))
        )
        began_s = time.monotonic()
        waiting.start()
        wait_for(lambda: running.counted.values.get("dns_upstream_requests_total"))
        for _ in range(20):
            assert running.client.addresses("details.ns2.", protocol=protocol) == ["1.2.3.4"]
        assert not replies
        waiting.join(5)
        assert replies[0].rcode() == dns.rcode.SERVFAIL
        assert 1.0 <= time.monotonic() - began_s < 4


def test_in_parallel_the_fastest_of_all_name_servers_answers() -> None:
    with ExitStack() as stack:
        fast = stack.enter_context(SmallResolver(ZONE, host="127.0.0.3"))
        slow = stack.enter_context(SmallResolver({"istio.io.": ["9.9.9.9"]}, port=fast.port))
        slow.held.clear()
        running = stack.enter_context(
            proxy("127.0.0.1", "127.0.0.2", "127.0.0.3", port=fast.port, parallel=True)
        )
        for _ in range(5):
            assert running.client.addresses("istio.io.") == ["5.6.7.8"]
        wait_for(lambda: len(slow.asked) == 5)


def test_one_by_one_the_name_servers_are_asked_in_random_order_and_one_is_enough() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(SmallResolver(ZONE))
        second = stack.enter_context(SmallResolver(ZONE, host="127.0.0.2", port=first.port))
        running = stack.enter_context(proxy("127.0.0.1", "127.0.0.2", port=first.port))
        for _ in range(40):
            running.client.addresses("istio.io.")
        assert first.asked
        assert second.asked
        assert len(first.asked) + len(second.asked) == 40


def test_each_forwarded_query_has_a_source_port_of_its_own() -> None:
    ports = []
    with ExitStack() as stack:
        upstream = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        upstream.bind(("127.0.0.1", 0))
        upstream.settimeout(5)
        running = stack.enter_context(proxy("127.0.0.1", port=upstream.getsockname()[1], timeout_s=0.2))
        client = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        client.connect(("127.0.0.1", running.port))
        for _ in range(5):
            client.send(dns.message.make_query("istio.io.", "A").to_wire())
            ports.append(upstream.recvfrom(512)[1][1])
    assert len(set(ports)) == 5


def test_more_queries_under_way_than_allowed_are_refused_at_once() -> None:
    with (
        silent_name_server() as port,
        proxy("127.0.0.1", port=port, timeout_s=3.0, sockets_limit=10) as running,
    ):
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", running.port))
            client.settimeout(2.5)
            for _ in range(30):
                client.send(dns.message.make_query("istio.io.", "A").to_wire())
            refused = [dns.message.from_wire(client.recv(512)).rcode() for _ in range(20)]
            assert set(refused) == {dns.rcode.SERVFAIL}
            client.settimeout(5)
            assert len([client.recv(512) for _ in range(10)]) == 10  # timed out
        assert running.client.addresses("details.ns2.") == ["1.2.3.4"]


def test_a_tcp_client_may_ask_many_times_without_waiting_and_byte_by_byte(running: Proxy) -> None:
    asked = [dns.message.make_query(name, "A") for name in ["details.ns2.", "istio.io."] * 50]
    stream = b"".join(len(q.to_wire()).to_bytes(2, "big") + q.to_wire() for q in asked)
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as client:
        for at in range(40):
            client.sendall(stream[at : at + 1])
        client.sendall(stream[40:])
        client.shutdown(socket.SHUT_WR)
        replies = [read_message(client) for _ in asked]
        assert client.recv(1) == b""
    assert {reply.id for reply in replies} == {query.id for query in asked}
    assert all(reply.answer for reply in replies)


def read_message(client: socket.socket) -> dns.message.Message:
    size = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
    return dns.message.from_wire(client.recv(size, socket.MSG_WAITALL))


def test_tcp_clients_that_say_nothing_do_not_keep_others_out(resolver: SmallResolver) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(proxy("127.0.0.1", port=resolver.port))
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=5))
            for _ in range(CLIENTS_LIMIT + 20)
        ]
        assert running.client.addresses("details.ns2.", protocol="tcp") == ["1.2.3.4"]
        assert silent[0].recv(1) == b""  # the oldest had to go


def test_a_tcp_client_that_does_not_read_its_answers_is_left() -> None:
    with proxy() as running, socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
        query = dns.message.make_query("big.example.", "A").to_wire()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def ask_for_ever() -> None:
            while True:
                client.sendall(len(query).to_bytes(2, "big") + query)

        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            ask_for_ever()
        assert running.client.addresses("details.ns2.") == ["1.2.3.4"]


def test_a_tcp_client_that_asks_without_end_lets_others_have_their_turn() -> None:
    query = dns.message.make_query("big.example.", "A").to_wire()
    asked = 2000  # in one piece of what the proxy reads
    with proxy() as running, socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
        stream = client.makefile("rb")
        begun = threading.Event()

        def read_all() -> None:
            for _ in range(asked):
                assert stream.read(int.from_bytes(stream.read(2), "big"))
                begun.set()

        reader = threading.Thread(target=read_all)
        reader.start()
        client.sendall((len(query).to_bytes(2, "big") + query) * asked)
        assert begun.wait(10)
        assert running.client.addresses("details.ns2.") == ["1.2.3.4"]
        before = running.counted.values["dns_requests_total"]
        reader.join(30)
        assert not reader.is_alive()
        assert running.counted.values["dns_requests_total"] == asked + 1
    assert before < asked / 2


def test_many_such_tcp_clients_together_do_not_take_more_turns_than_one() -> None:
    query = dns.message.make_query("big.example.", "A").to_wire()
    chunk = (len(query).to_bytes(2, "big") + query) * 1000
    with ExitStack() as stack:
        running = stack.enter_context(proxy())
        for _ in range(200):
            client = socket.create_connection(("127.0.0.1", running.port), timeout=10)
            stack.enter_context(client).sendall(chunk)
        asked = running.counted.values
        wait_for(
            lambda: asked.get("dns_requests_total", 0) > 10_000, within_s=30, what="all clients being served"
        )
        before = asked["dns_requests_total"]
        for _ in range(8):
            assert running.client.addresses("details.ns2.") == ["1.2.3.4"]
        assert asked["dns_requests_total"] - before < 5000  # a chunk's share of each client would be 25,600


@given(st.lists(st.binary(max_size=60), max_size=30))
@settings(max_examples=30, deadline=None)
def test_a_flood_of_nonsense_over_both_protocols_leaves_it_well(flooded: Proxy, packets: list[bytes]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.connect(("127.0.0.1", flooded.port))
        tcp.connect(("127.0.0.1", flooded.port))
        for packet in packets:
            udp.send(packet)
            tcp.sendall(packet)
    assert flooded.client.addresses("details.ns2.") == ["1.2.3.4"]
    assert flooded.client.addresses("details.ns2.", protocol="tcp") == ["1.2.3.4"]


@pytest.fixture(scope="module")
def flooded() -> Iterator[Proxy]:
    with proxy(timeout_s=0.1) as running:
        yield running


def test_a_table_is_replaced_while_queries_run_and_each_sees_one_of_the_two() -> None:
    old, new = [f"10.0.0.{n}" for n in range(20)], [f"10.0.1.{n}" for n in range(20)]
    tables = [table_of({"x.example": Host(ips, "External")}, NAMING) for ips in (old, new)]
    with proxy(table=tables[0]) as running:
        done = threading.Event()

        def swap() -> None:
            while not done.is_set():
                running.server.table = tables[1]
                running.server.table = tables[0]

        swapping = threading.Thread(target=swap)
        swapping.start()
        try:
            seen = {tuple(sorted(running.client.addresses("x.example."))) for _ in range(100)}
        finally:
            done.set()
            swapping.join()
        assert seen <= {tuple(sorted(old)), tuple(sorted(new))}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.5"])
def test_on_a_wildcard_address_the_reply_comes_from_the_address_that_was_asked(address: str) -> None:
    with proxy(host="0.0.0.0") as running, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(5)
        client.sendto(dns.message.make_query("details.ns2.", "A").to_wire(), (address, running.port))
        assert client.recvfrom(512)[1] == (address, running.port)


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_is_served_and_asked_too(host: str) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 on loopback")
    with SmallResolver(ZONE, host="::1") as resolver, proxy("::1", port=resolver.port, host=host) as running:
        client = Client(running.port, "::1")
        assert client.addresses("details.ns2.") == ["1.2.3.4"]
        assert client.addresses("istio.io.") == ["5.6.7.8"]
        assert client.addresses("istio.io.", protocol="tcp") == ["5.6.7.8"]
        if host == "::":
            assert Client(running.port, "127.0.0.1").addresses("details.ns2.") == ["1.2.3.4"]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_an_address_that_is_taken_is_told_in_the_references_words() -> None:
    port = free_dns_port()
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        expected = (
            f"failed to start local DNS server: listen udp 127.0.0.1:{port}: bind: address already in use"
        )
        with pytest.raises(DnsError, match=expected):
            bind([("127.0.0.1", port)])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(DnsError, match=r"listen tcp 127\.0\.0\.1"):
            bind([("127.0.0.1", port)])
    for sock in bind([("127.0.0.1", port)]):
        sock.close()


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "1.2.3.4\0"])
def test_a_host_to_listen_on_that_is_none_is_an_error_that_names_it(host: str) -> None:
    with pytest.raises(DnsError, match=r"^failed to start local DNS server: listen udp "):
        bind([(host, 15053)])


def test_a_successor_serves_what_came_while_nobody_did() -> None:
    sockets = bind([("127.0.0.1", free_dns_port())])
    port = sockets[0].getsockname()[1]
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.create_connection(("127.0.0.1", port)) as tcp:
        query = dns.message.make_query("details.ns2.", "A").to_wire()
        udp.sendto(query, ("127.0.0.1", port))
        tcp.sendall(len(query).to_bytes(2, "big") + query)
        heirs = adopt([sock.detach() for sock in sockets])
        server = DnsServer(heirs, UpstreamSettings(name_servers=()), Counted())
        server.table = TABLE
        thread = threading.Thread(target=server.run)
        thread.start()
        udp.settimeout(5)
        tcp.settimeout(5)
        assert dns.message.from_wire(udp.recv(512)).answer
        assert read_message(tcp).answer
        server.close()
        thread.join(5)
    for sock in heirs:
        sock.close()
