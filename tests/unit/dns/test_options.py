"""Where the DNS proxy listens, whom it asks, and what of its configuration ends the agent."""

import os
from pathlib import Path

import msgspec
import pytest

from pilot_agent.dns import resolv_conf
from pilot_agent.dns.options import DnsError, DnsOptions
from pilot_agent.dns.resolv_conf import ResolvConf
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig

ON = {"ISTIO_META_DNS_CAPTURE": "true"}


def build(variables: dict[str, str], role: str = "sidecar") -> DnsOptions:
    node = Node(role=role, ip_addresses=("10.0.0.1",), id="app-1.ns1", domain="ns1.svc.cluster.local")
    return DnsOptions.build(Environment(variables), ProxyConfig(), node)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.10\nsearch NS1.svc.cluster.local svc.cluster.local\noptions ndots:5\n")
    return path


def at(conf: Path, **changes: object) -> DnsOptions:
    return msgspec.structs.replace(DnsOptions(resolv_conf=str(conf)), **changes)


CONFS = {
    "": ResolvConf(),
    "nameserver 1.1.1.1\n  nameserver\t::1 # comment\n": ResolvConf(("1.1.1.1", "::1")),
    "search a b\nsearch c d\n": ResolvConf((), ("c", "d")),
    "search a b\ndomain e f\n": ResolvConf((), ("e",)),
    "domain e\nsearch\n": ResolvConf(),
    "# nameserver 1.1.1.1\n;search a\nnameserver\noptions ndots:5 search\n": ResolvConf(),
}


@pytest.mark.parametrize(("text", "expected"), CONFS.items(), ids=range(len(CONFS)))
def test_resolv_conf_is_read_as_the_reference_does(text: str, expected: ResolvConf) -> None:
    assert resolv_conf.parse(text) == expected


@pytest.mark.parametrize(
    ("variables", "role", "expected"),
    [
        ({}, "sidecar", False),
        (ON, "sidecar", True),
        (ON, "router", False),
        ({"ISTIO_META_ENABLE_DNS_SERVER": "true"}, "router", True),
    ],
)
def test_it_is_on_for_a_sidecar_that_captures_and_for_whom_it_is_ordered(
    variables: dict[str, str], role: str, expected: bool
) -> None:
    assert build(variables, role).enabled is expected


def test_its_settings_come_from_the_environment() -> None:
    options = build(
        ON
        | {
            "DNS_PROXY_ADDR": "127.0.0.1:1053",
            "DNS_FORWARD_PARALLEL": "true",
            "DNS_FORWARD_TIMEOUT": "300ms",
            "POD_NAMESPACE": "ns1",
        }
    )
    assert (options.address, options.parallel, options.timeout_s) == ("127.0.0.1:1053", True, 0.3)
    assert (options.namespace, options.domain, options.before_sync) == ("ns1", "ns1.svc.cluster.local", False)
    plain = build(ON)
    assert (plain.address, plain.parallel, plain.timeout_s) == ("localhost:15053", False, 5.0)
    assert build(ON | {"DNS_FORWARD_TIMEOUT": "0s"}).timeout_s == 2.0


@pytest.mark.parametrize(
    ("uid", "address", "before_sync"), [(0, "127.0.0.1:53", True), (7, "localhost:15053", False)]
)
def test_port_53_is_for_root_alone_and_forwards_before_there_is_a_table(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    uid: int,
    address: str,
    before_sync: bool,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    options = build(ON | {"DNS_PROXY_ADDR": "127.0.0.1:53"})
    assert (options.address, options.before_sync) == (address, before_sync)
    assert bool(options.other_resolv_conf) is before_sync
    assert ("wants root" in capfd.readouterr().out) is not before_sync


def test_the_other_resolv_conf_gives_the_name_servers_and_not_the_search_list(
    conf: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    options = at(conf, other_resolv_conf=str(other))
    assert options.surroundings().name_servers == ("10.0.0.10",)
    other.write_text("nameserver 8.8.8.8\nsearch elsewhere\n")
    found = options.surroundings()
    assert found.name_servers == ("8.8.8.8",)
    assert found.naming.search == "ns1.svc.cluster.local."


@pytest.mark.parametrize(
    ("servers", "hosts"),
    [
        (("1.1.1.1",), ["127.0.0.1"]),
        (("::1",), ["::1"]),
        (("::1", "1.1.1.1"), ["127.0.0.1", "::1"]),
        ((), ["localhost"]),
        (("fe80::1%eth0", "ns.example", "é", "1.2.3", "1.2.3.4:53"), ["::1"]),
        (("garbage", "[::1]"), ["localhost"]),
    ],
)
def test_localhost_is_the_loopback_of_each_family_that_a_name_server_has(
    conf: Path, servers: tuple[str, ...], hosts: list[str]
) -> None:
    conf.write_text("".join(f"nameserver {server}\n" for server in servers))
    assert [host for host, _ in at(conf).surroundings().listen] == hosts
    assert at(conf, address="0.0.0.0:1053").surroundings().listen == (("0.0.0.0", 1053),)


@pytest.mark.parametrize("address", ["nonsense", "a:b:c", "127.0.0.1:x", "127.0.0.1:70000", "[::1"])
def test_an_address_that_is_none_is_refused_by_name(conf: Path, address: str) -> None:
    with pytest.raises(
        DnsError, match=r"^failed to start local DNS server: DNS_PROXY_ADDR must be host:port: "
    ):
        at(conf, address=address).surroundings()


def test_a_resolv_conf_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    text = f"failed to start local DNS server: open {missing}: no such file or directory"
    with pytest.raises(DnsError, match=text):
        at(missing).surroundings()


def test_a_proxy_that_is_off_minds_no_surroundings() -> None:
    assert not build({"DNS_PROXY_ADDR": "nonsense"}).enabled
