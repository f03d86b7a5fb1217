"""Packets of both families in pods of their own: captured by a real Envoy, passed by, and direct again."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.agent import short_directory
from tests.support.cli import PROGRAM
from tests.support.netns import (
    Namespace,
    Pod,
    Wire,
    connect,
    require_network_namespaces,
    sockets_owned_by,
)
from tests.support.pod_envoy import PodEnvoy

ALL = ("-u", "1337", "-i", "*", "-b", "*", "-d", "15020", "--dual-stack")
KINDS = {
    "iptables-nft": ("--force-iptables-binary", "nft"),
    "iptables-legacy": ("--force-iptables-binary", "legacy"),
    "nftables": ("--native-nftables",),
}
PROXY = 1337
FAMILIES = (4, 6)


class Pods:
    """The pod under test and a peer on the same wire, each with an application on every port that counts."""

    def __init__(self, wire: Wire, directory: Path) -> None:
        self.pod, self.peer = wire.pod("pod", 2), wire.pod("peer", 3)
        self.directory = directory

    def rules(self, *words: str) -> None:
        self.pod.run(sys.executable, str(PROGRAM), "istio-iptables", *words, environment=dict(os.environ))


class Echo:
    """Says on TCP and UDP of one port who it is and from where it was called."""

    def __init__(self, namespace: Namespace, port: int, name: str, *, dns_proxy: bool = False) -> None:
        self._name, self._quit = name, threading.Event()
        with namespace.entered(), sockets_owned_by(PROXY if dns_proxy else 0):
            self._tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            self._udp = [
                socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)
            ]
            self._udp[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # A redirected query arrives at the loopback, and the answer must come from there.
            for one, local in zip(self._udp, ("127.0.0.1", "::1"), strict=True):
                one.bind((local if dns_proxy else "", port))
        threads = [self._serve_tcp, *(lambda one=one: self._serve_udp(one) for one in self._udp)]
        self._threads = [threading.Thread(target=one) for one in threads]

    def __enter__(self) -> Self:
        for one in (self._tcp, *self._udp):
            one.settimeout(0.05)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quit.set()
        for thread in self._threads:
            thread.join(10)
        for one in (self._tcp, *self._udp):
            one.close()

    def _serve_tcp(self) -> None:
        while not self._quit.is_set():
            try:
                connection, address = self._tcp.accept()
            except TimeoutError:
                continue
            with connection:
                connection.sendall(self._answer(address[0]))

    def _serve_udp(self, one: socket.socket) -> None:
        while not self._quit.is_set():
            try:
                _, address = one.recvfrom(100)
            except TimeoutError:
                continue
            one.sendto(self._answer(address[0]), address)

    def _answer(self, caller: str) -> bytes:
        return f"{self._name} {caller.removeprefix('::ffff:')}".encode()


@pytest.fixture
def pods() -> Iterator[Pods]:
    require_network_namespaces("iptables-nft", "iptables-legacy", "nft", "setpriv")
    with ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        pods = Pods(stack.enter_context(Wire()), directory)
        for port in (8080, 3306, 15020):
            stack.enter_context(Echo(pods.pod, port, "pod"))
            stack.enter_context(Echo(pods.peer, port, "peer"))
        yield pods


def ask(client: Pod, server: Pod, port: int, family: int) -> str:
    """Return what the application says to a TCP connection made by root in `client`."""
    with connect(client, (address(server, family), port)) as connection:
        return _all(connection)


def ask_as_proxy(client: Pod, server: Pod, port: int, family: int) -> str:
    """Return the same for a connection of the proxy's user."""
    script = (
        "import socket, sys\n"
        "connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\n"
        "while data := connection.recv(100): sys.stdout.write(data.decode())\n"
    )
    words = (sys.executable, "-I", "-S", "-c", script, address(server, family), str(port))
    return client.run(*words, uid=PROXY, gid=PROXY).stdout


def ask_udp(client: Pod, server: str, port: int, uid: int = 0) -> str:
    """Return the answer to a datagram, and from where it seems to come."""
    script = (
        "import socket, sys\n"
        "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "one = socket.socket(family, socket.SOCK_DGRAM)\n"
        "one.settimeout(5)\n"
        "one.sendto(b'?', (sys.argv[1], int(sys.argv[2])))\n"
        "data, sender = one.recvfrom(100)\n"
        "print(data.decode().split()[0], sender[0])\n"
    )
    return client.run(
        sys.executable, "-I", "-S", "-c", script, server, str(port), uid=uid, gid=uid
    ).stdout.strip()


def address(pod: Pod, family: int) -> str:
    return pod.ipv4 if family == 4 else pod.ipv6


def _all(connection: socket.socket) -> str:
    data = b""
    while piece := connection.recv(100):
        data += piece
    return data.decode()


@contextmanager
def counted(envoy: PodEnvoy, **expected: int) -> Iterator[None]:
    """Check how many connections each listener got meanwhile; those not named: none."""
    before = envoy.captured()
    yield
    after = envoy.captured()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == expected


@pytest.mark.root
@pytest.mark.envoy
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_to_be_captured_is_and_the_rest_passes(pods: Pods, kind: str) -> None:
    pod, peer = pods.pod, pods.peer
    with PodEnvoy(pod, pods.directory) as envoy:
        pods.rules(*ALL, *KINDS[kind], "-o", "3306")
        for family in FAMILIES:
            pod_ip, peer_ip = address(pod, family), address(peer, family)
            through_proxy = {4: "127.0.0.6", 6: "::6"}[family]
            with counted(envoy, **{f"outbound{family}": 1}):  # once: Envoy's own connection is not captured
                assert ask(pod, peer, 8080, family) == f"peer {pod_ip}"
            with counted(envoy, **{f"inbound{family}": 1}):
                assert ask(peer, pod, 8080, family) == f"pod {through_proxy}"
            with counted(envoy):
                assert ask(pod, peer, 3306, family) == f"peer {pod_ip}"
                assert ask(peer, pod, 15020, family) == f"pod {peer_ip}"
                assert ask_as_proxy(pod, peer, 8080, family) == f"peer {pod_ip}"
                assert ask(pod, pod, 8080, family) == f"pod {pod_ip}"
            with counted(envoy, **{f"inbound{family}": 1}):
                assert ask_as_proxy(pod, pod, 8080, family) == f"pod {through_proxy}"

        pods.rules("--cleanup-only", "--dual-stack")
        for family in FAMILIES:
            with counted(envoy):
                assert ask(pod, peer, 8080, family) == f"peer {address(pod, family)}"
                assert ask(peer, pod, 8080, family) == f"pod {address(peer, family)}"


@pytest.mark.root
@pytest.mark.envoy
@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_and_ports_decide_what_leaves_through_the_proxy(pods: Pods, kind: str) -> None:
    pod, peer = pods.pod, pods.peer
    with PodEnvoy(pod, pods.directory) as envoy:
        pods.rules(*ALL, *KINDS[kind], "-x", f"{peer.ipv4}/32,{peer.ipv6}/128")
        for family in FAMILIES:
            with counted(envoy):
                assert ask(pod, peer, 8080, family).startswith("peer ")
        pods.rules("--cleanup-only", "--dual-stack")

        only = ("-u", "1337", "--dual-stack", "-i", "192.0.2.0/24,2001:db8::/32", "-q", "3306", "-b", "3306")
        pods.rules(*only, *KINDS[kind])
        for family in FAMILIES:
            with counted(envoy):
                assert ask(pod, peer, 8080, family).startswith("peer ")
                assert ask(peer, pod, 8080, family) == f"pod {address(peer, family)}"
            with counted(envoy, **{f"outbound{family}": 1, f"inbound{family}": 1}):
                assert ask(pod, peer, 3306, family).startswith("peer ")
                assert ask(peer, pod, 3306, family).startswith("pod ")


@pytest.mark.root
@pytest.mark.envoy
@pytest.mark.parametrize("kind", KINDS)
def test_tproxy_keeps_the_caller_s_address(pods: Pods, kind: str) -> None:
    pod, peer = pods.pod, pods.peer
    with PodEnvoy(pod, pods.directory, tproxy=True) as envoy:
        pods.rules(*ALL, *KINDS[kind], "-m", "TPROXY")
        pods.rules(*ALL, *KINDS[kind], "-m", "TPROXY")
        for family in FAMILIES:
            with counted(envoy, **{f"inbound{family}": 1}):
                assert ask(peer, pod, 8080, family) == f"pod {address(peer, family)}"
            with counted(envoy, **{f"outbound{family}": 1}):
                assert ask(pod, peer, 8080, family) == f"peer {address(pod, family)}"
            with counted(envoy):
                assert ask(peer, pod, 15020, family) == f"pod {address(peer, family)}"

        pods.rules("--cleanup-only", "--dual-stack")
        for family in FAMILIES:
            with counted(envoy):
                assert ask(peer, pod, 8080, family) == f"pod {address(peer, family)}"


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["servers of resolv.conf", "all"])
def test_dns_queries_arrive_at_the_proxy_s_port_and_its_own_leave(pods: Pods, kind: str, which: str) -> None:
    pod, peer = pods.pod, pods.peer
    resolv_conf = pods.directory / "resolv.conf"
    resolv_conf.write_text(f"nameserver {peer.ipv4}\nnameserver {peer.ipv6}\n", encoding="utf-8")
    pod.bind_file(resolv_conf, "/etc/resolv.conf")
    options = ("--redirect-dns", *(("--capture-all-dns",) if which == "all" else ()))
    with Echo(pod, 15053, "agent", dns_proxy=True), Echo(peer, 53, "upstream"), Echo(pod, 53, "local"):
        pods.rules(*ALL, *KINDS[kind], *options)
        for family in FAMILIES:
            upstream = address(peer, family)
            for _ in range(3):  # the same ports again: conntrack remembers nothing wrong
                assert ask_udp(pod, upstream, 53) == f"agent {upstream}"
                assert ask_udp(pod, upstream, 53, uid=PROXY) == f"upstream {upstream}"
            assert ask(pod, peer, 53, family).startswith("agent ")
            assert ask_as_proxy(pod, peer, 53, family).startswith("upstream ")
            assert ask_udp(pod, upstream, 8080) == f"peer {upstream}"

        pods.rules("--cleanup-only", "--dual-stack")
        for family in FAMILIES:
            upstream = address(peer, family)
            assert ask_udp(pod, upstream, 53) == f"upstream {upstream}"
            assert ask(pod, peer, 53, family).startswith("upstream ")
