"""Names through the agent's DNS proxy: known ones, others, and whatever dies meanwhile."""

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dns.exception
import dns.rcode
import pytest

from lab.istiod import Istiod
from lab.mesh import Mesh
from tests.scenarios.conftest import agent_for
from tests.support.dns_world import (
    HOSTS,
    Asking,
    DnsWorld,
    dns_settings,
    name_server,
    need_mounts,
    own_resolv_conf,
    with_hosts,
)
from tests.support.name_tables import Host, encoded
from tests.support.real_envoy import get
from tests.support.status_client import get as ask_status
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy

MANY = {
    f"service-{n:05}.namespace-{n % 50}.svc.cluster.local": Host(
        [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"], "Kubernetes", f"service-{n:05}", f"namespace-{n % 50}"
    )
    for n in range(20_000)
}


@pytest.fixture
def dns_world(workdir: Path, mesh: Mesh, istiod: Istiod) -> Iterator[DnsWorld]:
    """An agent that is not started; istiod has no name table for it yet."""
    need_mounts()
    istiod.push(with_hosts(mesh, None))
    with name_server() as server:
        port, settings = dns_settings(workdir, server)
        yield DnsWorld(istiod, mesh, agent_for(istiod, workdir, **settings), server, port)


def ready_text(world: DnsWorld) -> str:
    """Return the newest reason for not being ready."""
    found = [line for line in world.agent.log().splitlines() if "is NOT ready" in line]
    return found[-1] if found else ""


def ready(world: DnsWorld) -> DnsWorld:
    world.push(HOSTS)
    world.agent.wait_ready()
    return world


def answered(world: DnsWorld, name: str) -> bool:
    """Return whether somebody is there and knows the name."""
    try:
        return bool(world.client.ask(name, within_s=0.2).answer)
    except dns.exception.Timeout:
        return False


def kill(world: DnsWorld, role: str) -> float:
    """Kill an actor; return after how many seconds a successor is its process."""
    old = world.agent.actor_pid(role)
    began_s = time.monotonic()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: world.agent.actor(role) not in (None, old), what=f"a new {role}")
    return time.monotonic() - began_s


def test_names_of_the_mesh_and_all_others_are_answered_and_readiness_waits_for_the_table(
    dns_world: DnsWorld,
) -> None:
    world = dns_world
    with world.agent as agent:
        wait_for(lambda: agent.actor("dns"), what="DnsActor")
        wait_for(lambda: agent.stats(r"listener_manager.lds.update_success"), within_s=30, what="listeners")

        def waits_for_the_table() -> bool:
            assert not agent.is_ready()
            return "DNS lookup table is not ready yet" in ready_text(world)

        wait_for(waits_for_the_table, what="the reason")
        assert world.client.ask("details.default.").rcode() == dns.rcode.SERVFAIL
        assert ask_status(agent.status_port, "/debug/ndsz").status == 404

        ready(world)
        for protocol in ("udp", "tcp"):
            ask = partial(world.client.addresses, protocol=protocol)
            for name in (
                "details.default.svc.cluster.local.",
                "details.default.svc.",
                "details.default.",
                "details.",
            ):
                assert ask(name) == ["1.2.3.4"], name
            assert ask("external.example.default.svc.cluster.local.") == ["9.9.9.9"]
            assert ask("external.example.", "AAAA") == []
            assert ask("istio.io.") == ["5.6.7.8"]
            assert world.client.ask("nobody.io.", protocol=protocol).rcode() == dns.rcode.NXDOMAIN
        assert [asked for asked in world.resolver.asked if "nobody" in asked[1]] == [
            ("udp", "nobody.io."),
            ("tcp", "nobody.io."),
        ]
        shown = json.loads(ask_status(agent.status_port, "/debug/ndsz").body)["table"]
        assert shown["details.default"] == {"ips": ["1.2.3.4"], "registry": "Kubernetes"}

        world.push(
            {"details.default.svc.cluster.local": Host(["4.3.2.1"], "Kubernetes", "details", "default")}
        )
        wait_for(lambda: world.client.addresses("details.default.") == ["4.3.2.1"], what="the new table")
        assert world.istiod.observed.nack_messages() == []

        def metrics() -> str:
            page = get(agent.status_port, "/metrics")[1]
            return page if "istio_agent_dns_upstream_request_duration_seconds_count 4" in page else ""

        page = wait_for(metrics, what="the counters")
        assert "istio_agent_dns_upstream_requests_total 4" in page
        assert "# TYPE istio_agent_dns_upstream_request_duration_seconds histogram" in page
        assert agent.quit() == 0
        assert "Traceback" not in agent.log()


def test_no_query_is_lost_while_dns_is_killed_again_and_again(dns_world: DnsWorld) -> None:
    with dns_world.agent:
        ready(dns_world)
        with Asking(dns_world.client, "details.default.") as asking:
            wait_for(lambda: len(asking.took_s) > 50, what="answers")
            for _ in range(2):  # more would be a crash loop, which is slowed down
                kill(dns_world, "dns")
                seen = len(asking.took_s)
                wait_for(lambda seen=seen: len(asking.took_s) > seen + 20, what="answers again")  # type: ignore[misc]
        assert asking.wrong == []
        assert asking.lost <= 2  # one that was read and not answered yet dies with its reader
        assert dns_world.client.addresses("istio.io.") == ["5.6.7.8"]


def test_it_answers_on_while_istiod_is_away_and_every_other_part_was_killed(dns_world: DnsWorld) -> None:
    world = dns_world
    with world.agent:
        ready(world)
        world.istiod.quit()
        kill(world, "upstream-xds")
        kill(world, "dns")
        kill(world, "health")
        assert world.client.addresses("details.default.") == ["1.2.3.4"]
        assert world.client.addresses("istio.io.") == ["5.6.7.8"]
        world.istiod.start()
        world.push(
            {"details.default.svc.cluster.local": Host(["4.3.2.1"], "Kubernetes", "details", "default")}
        )
        wait_for(
            lambda: world.client.addresses("details.default.") == ["4.3.2.1"],
            within_s=30,
            what="the new table",
        )
        wait_for(world.agent.is_ready, what="readiness")


def test_garbage_for_a_table_changes_nothing(dns_world: DnsWorld) -> None:
    world = dns_world
    with world.agent as agent:
        ready(world)
        world.push(b"\x0a\x7f\x0a")
        wait_for(world.istiod.observed.nack_messages, what="the NACK")
        before = len(world.istiod.observed.nack_messages())
        world.push(b"\x0a\x05\x0a\x03\xff\xff\xff")  # an entry whose host is no UTF-8
        world.istiod.observed.wait_until(lambda seen: len(seen.nack_messages()) > before)
        agent.wait_log("NDS rejected: malformed ")
        assert world.client.addresses("details.default.") == ["1.2.3.4"]
        world.push({"other.example": Host(["6.6.6.6"], "External")})
        wait_for(lambda: world.client.ask("other.example.").answer, what="the next good table")


def test_twenty_thousand_names_are_served_from_little_memory_and_again_at_once_after_a_kill(
    dns_world: DnsWorld,
) -> None:
    world = dns_world
    with world.agent as agent:
        ready(world)
        before = pss_bytes(agent.actor_pid("dns"))
        raw = encoded(MANY)
        world.push(raw)
        last = "service-19999.namespace-49."
        wait_for(lambda: world.client.ask(last).answer, within_s=60, what="the large table")
        wait_for(
            lambda: pss_bytes(agent.actor_pid("dns")) - before < 2 * len(raw),
            within_s=20,
            what=f"less than {2 * len(raw)} bytes more than {before}",
        )
        with Asking(world.client, last) as asking:
            wait_for(lambda: len(asking.took_s) > 50, what="answers")
            kill(world, "dns")
            seen = len(asking.took_s)
            wait_for(lambda: len(asking.took_s) > seen + 50, what="answers again")
        assert asking.wrong == []
        assert asking.lost <= 1
        assert max(asking.took_s) < 1.0  # 100 ms on a quiet machine


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss")


def test_dns_is_switched_on_while_the_agent_runs(dns_world: DnsWorld) -> None:
    world = dns_world
    world.push(HOSTS)
    world.agent.environment["ISTIO_META_DNS_CAPTURE"] = "false"
    with world.agent as agent:
        agent.wait_ready()
        assert agent.actor("dns") is None
        assert not world.istiod.observed.acks(NDS_URL)
        posted = ask_status(agent.status_port, "/dns", "Content-Length: 0", method="POST")
        assert posted.status == 200
        wait_for(lambda: answered(world, "details.default."), what="an answer")
        assert agent.is_ready()
        kill(world, "upstream-xds")
        world.push(
            {"details.default.svc.cluster.local": Host(["4.3.2.1"], "Kubernetes", "details", "default")}
        )
        wait_for(
            lambda: world.client.addresses("details.default.") == ["4.3.2.1"],
            within_s=30,
            what="the new table",
        )


NDS_URL = "type.googleapis.com/istio.networking.nds.v1.NameTable"

START_ERRORS = {
    "no resolv.conf": "failed to start local DNS server: open /etc/resolv.conf: ",
    "no address": "failed to start local DNS server: DNS_PROXY_ADDR must be host:port: ",
    "an address that is not ours": "failed to start local DNS server: listen udp 192.0.2.1:15053: bind: ",
}


@pytest.mark.parametrize(("trouble", "text"), START_ERRORS.items(), ids=START_ERRORS.keys())
def test_a_dns_proxy_that_cannot_start_ends_the_agent_with_one_line(
    dns_world: DnsWorld, workdir: Path, trouble: str, text: str
) -> None:
    agent = dns_world.agent
    if trouble == "no resolv.conf":
        hide = (*own_resolv_conf(workdir, "")[:-2], 'mount -t tmpfs none /etc && exec "$@"', "sh")
        agent._command[: len(hide)] = hide
    else:
        agent.environment["DNS_PROXY_ADDR"] = "nonsense" if trouble == "no address" else "192.0.2.1:15053"
    agent.start()
    assert agent.process is not None
    assert agent.process.wait(20) == 255
    assert [line for line in agent.log().splitlines() if line.startswith(f"Error: {text}")]
    assert "Traceback" not in agent.log()
