"""DnsActor on real sockets, with the supervisor's and its neighbours' part played by the test."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.rcode
import pytest

from actors.dns import DnsActor, DnsNotes
from actors.messages.control import PeerRestarted
from actors.messages.dns import NameTableAsked, NameTableShown, NameTableTaken, NameTableWanted
from actors.messages.health import NameTableReceived
from actors.messages.xds import NameTable
from actors.runtime.roles import Role
from pilot_agent.dns import workers
from pilot_agent.dns.options import DnsOptions
from tests.support.context import FakeContext, MemoryNotebook
from tests.support.name_tables import Host, encoded
from tests.support.resolver import Client, free_dns_port
from tests.support.waiting import wait_for

SMALL = encoded({"details.ns2.svc.cluster.local": Host(["1.2.3.4"], "Kubernetes", "details", "ns2")})
OTHER = encoded({"details.ns2.svc.cluster.local": Host(["4.3.2.1"], "Kubernetes", "details", "ns2")})
LARGE = encoded(
    {
        f"s{n}.ns2.svc.cluster.local": Host([f"10.0.{n >> 8}.{n & 255}"], "Kubernetes", f"s{n}", "ns2")
        for n in range(1000)
    }
)


@dataclass
class Rig:
    """One DnsActor through its incarnations."""

    options: DnsOptions
    notebook: MemoryNotebook = field(default_factory=MemoryNotebook)
    incarnation: int = 0
    handed_down: tuple[int, ...] = ()
    workers: dict[str, Callable[[bytes], bytes]] = field(
        default_factory=lambda: {"dns-index": workers.index, "dns-page": workers.page}
    )
    context: Any = None
    ref: Any = None

    def start(self) -> "Rig":
        self.incarnation += 1
        self.context = FakeContext(
            role=Role.DNS,
            incarnation=self.incarnation,
            notebook=self.notebook,
            options=(self.options,),
            workers=self.workers,
            handed_down=self.handed_down,
        )
        self.context.deliver = self._deliver
        self.ref = DnsActor.start(self.context)
        self.ref.ask(PeerRestarted(role="cert", incarnation=2))  # behind its on_start
        return self

    def _deliver(self, message: object) -> None:
        self.ref.tell(message)

    def end(self) -> None:
        """End this incarnation; what it handed down lives on, as the supervisor would keep it."""
        if self.context.hands_down:
            self.handed_down = tuple(os.dup(descriptor) for descriptor in self.context.hands_down)
        self.ref.proxy().quit(1.0).get()
        self.ref.stop()

    def take(self, table: bytes, number: int = 1) -> None:
        self.ref.ask(NameTable(body=table, number=number))
        wait_for(lambda: (Role.UPSTREAM_XDS, NameTableTaken(number=number)) in self.context.sent)

    @property
    def client(self) -> Client:
        return Client(int(self.options.address.rpartition(":")[2]))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nsearch ns1.svc.cluster.local svc.cluster.local\n")
    options = DnsOptions(
        enabled=True,
        address=f"localhost:{free_dns_port()}",
        namespace="ns1",
        domain="ns1.svc.cluster.local",
        resolv_conf=str(conf),
        timeout_s=0.5,
    )
    rig = Rig(options)
    yield rig
    if rig.ref is not None and rig.ref.is_alive():
        rig.end()
    for descriptor in rig.handed_down:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_it_serves_before_there_is_a_table_and_asks_for_one(rig: Rig) -> None:
    rig.start()
    assert rig.context.is_ready
    assert rig.context.sent == [(Role.UPSTREAM_XDS, NameTableWanted())]
    assert rig.client.ask("details.ns2.").rcode() == dns.rcode.SERVFAIL
    assert rig.context.counters["dns_requests_total"] == 1


def test_a_table_is_served_kept_and_taken_and_readiness_is_told_once(rig: Rig) -> None:
    rig.start().take(SMALL)
    assert rig.client.addresses("details.ns2.") == ["1.2.3.4"]
    assert rig.client.addresses("details.ns2.ns1.svc.cluster.local.", protocol="tcp") == ["1.2.3.4"]
    rig.take(OTHER, 2)
    assert rig.client.addresses("details.ns2.") == ["4.3.2.1"]
    assert rig.context.sent.count((Role.HEALTH, NameTableReceived())) == 1
    notes = rig.notebook.restore(DnsNotes)
    assert notes is not None
    assert notes.table == OTHER


def test_a_large_table_is_indexed_by_a_worker(rig: Rig) -> None:
    rig.start().take(LARGE)
    assert rig.client.addresses("s999.ns2.") == ["10.0.3.231"]


def test_of_tables_that_come_while_one_is_indexed_the_newest_is_next(rig: Rig) -> None:
    first = rig.workers["dns-index"]
    began: list[bytes] = []

    def index(request: bytes) -> bytes:
        began.append(request)
        if len(began) == 1:  # two more come meanwhile
            rig.ref.tell(NameTable(body=SMALL, number=2))
            rig.ref.tell(NameTable(body=OTHER, number=3))
        return first(request)

    rig.workers["dns-index"] = index
    rig.start()
    rig.ref.ask(NameTable(body=LARGE, number=1))
    wait_for(lambda: (Role.UPSTREAM_XDS, NameTableTaken(number=3)) in rig.context.sent)
    assert (Role.UPSTREAM_XDS, NameTableTaken(number=1)) in rig.context.sent
    assert rig.client.addresses("details.ns2.") == ["4.3.2.1"]


def test_a_worker_that_failed_is_asked_again(rig: Rig) -> None:
    fails = [True]

    def index(request: bytes) -> bytes:
        if fails:
            fails.pop()
            raise MemoryError("killed by signal 9")
        return workers.index(request)

    rig.workers["dns-index"] = index
    rig.start()
    rig.ref.ask(NameTable(body=LARGE, number=1))
    wait_for(lambda: rig.context.timers)
    rig.context.advance(1.0)
    wait_for(lambda: (Role.UPSTREAM_XDS, NameTableTaken(number=1)) in rig.context.sent)
    assert rig.client.addresses("s999.ns2.") == ["10.0.3.231"]


@pytest.mark.parametrize(
    "garbage", [b"\x0a\x03\x0a\x01\xff", b"\xff" * 100, LARGE[:-1]], ids=["no UTF-8", "no message", "cut off"]
)
def test_garbage_for_a_table_is_told_and_the_last_good_one_stays(
    rig: Rig, garbage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    rig.start().take(SMALL)
    rig.take(garbage, 2)
    assert rig.client.addresses("details.ns2.") == ["1.2.3.4"]
    assert "name table rejected, the last good one stays: " in capfd.readouterr().out


def test_a_successor_serves_at_once_what_came_before_it(rig: Rig) -> None:
    rig.start().take(SMALL)
    rig.end()
    with socket.socket(type=socket.SOCK_DGRAM) as waiting:
        import dns.message

        waiting.connect(("127.0.0.1", rig.client.port))
        waiting.send(dns.message.make_query("details.ns2.", "A").to_wire())
        rig.start()
        waiting.settimeout(5)
        assert dns.message.from_wire(waiting.recv(512)).answer
    assert (Role.HEALTH, NameTableReceived()) in rig.context.sent
    assert (Role.UPSTREAM_XDS, NameTableWanted()) in rig.context.sent


def test_a_successor_goes_on_with_the_resolv_conf_of_the_first(rig: Rig) -> None:
    rig.start().take(SMALL)
    rig.end()
    Path(rig.options.resolv_conf).unlink()
    rig.start()
    assert rig.client.addresses("details.ns2.ns1.svc.cluster.local.") == ["1.2.3.4"]


def test_a_successor_of_another_hash_key_makes_the_index_anew(rig: Rig) -> None:
    rig.start().take(SMALL)
    rig.end()
    notes = rig.notebook.restore(DnsNotes)
    assert notes is not None
    foreign = bytes(8) + notes.index[8:]
    rig.notebook.save(DnsNotes(surroundings=notes.surroundings, table=notes.table, index=foreign))
    rig.start()
    assert rig.client.addresses("details.ns2.") == ["1.2.3.4"]
    assert (Role.HEALTH, NameTableReceived()) in rig.context.sent
    assert rig.notebook.restore(DnsNotes) == notes


def test_restarted_neighbours_are_told_what_they_need(rig: Rig) -> None:
    rig.start()
    rig.context.sent.clear()
    rig.ref.ask(PeerRestarted(role="health", incarnation=2))
    assert rig.context.sent == []
    rig.take(SMALL)
    rig.context.sent.clear()
    rig.ref.ask(PeerRestarted(role="health", incarnation=3))
    rig.ref.ask(PeerRestarted(role="upstream-xds", incarnation=2))
    assert rig.context.sent == [(Role.HEALTH, NameTableReceived()), (Role.UPSTREAM_XDS, NameTableWanted())]


def test_the_same_table_again_is_no_work(rig: Rig) -> None:
    rig.workers.clear()
    rig.start().take(SMALL)
    rig.take(SMALL, 2)
    assert rig.context.sent.count((Role.HEALTH, NameTableReceived())) == 1


def test_the_table_is_shown_with_every_generated_name(rig: Rig) -> None:
    rig.start()
    rig.ref.ask(NameTableAsked(number=7))
    assert (Role.HEALTH, NameTableShown(number=7, body=b"")) in rig.context.sent
    rig.take(SMALL)
    rig.ref.ask(NameTableAsked(number=8))
    shown = wait_for(lambda: next((m for _, m in rig.context.sent if getattr(m, "number", 0) == 8), None))
    alternate = {"ips": ["1.2.3.4"], "registry": "Kubernetes"}
    assert json.loads(shown.body) == {
        "table": {
            "details.ns2": alternate,
            "details.ns2.svc": alternate,
            "details.ns2.svc.cluster.local": {
                "ips": ["1.2.3.4"],
                "registry": "Kubernetes",
                "shortname": "details",
                "namespace": "ns2",
            },
        }
    }


def test_an_address_that_is_taken_ends_the_agent_at_its_start(rig: Rig) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", rig.client.port))
        rig.start()
        assert rig.context.fatal_reason == (
            "failed to start local DNS server: "
            f"listen udp 127.0.0.1:{rig.client.port}: bind: address already in use"
        )


def test_an_address_that_is_taken_when_it_is_switched_on_later_is_tried_again(rig: Rig) -> None:
    import msgspec

    rig.options = msgspec.structs.replace(rig.options, enabled=False)
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", rig.client.port))
        rig.start()
        assert rig.context.fatal_reason is None
        assert not rig.context.is_ready
    rig.context.advance(1.0)
    wait_for(lambda: rig.context.is_ready)
    rig.take(SMALL)
    assert rig.client.addresses("details.ns2.") == ["1.2.3.4"]
