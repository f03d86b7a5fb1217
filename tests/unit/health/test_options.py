"""What the configuration says of health."""

import pytest

from pilot_agent.environment import Environment
from pilot_agent.health import HealthOptions
from pilot_agent.health.probe import Exec, Grpc, HttpGet, ReadinessProbe, TcpSocket
from pilot_agent.proxyconfig import Node, ProxyConfig


def options(
    environment: dict[str, str] | None = None,
    addresses: tuple[str, ...] = ("10.0.0.1",),
    role: str = "sidecar",
    probe: dict[str, object] | None = None,
) -> HealthOptions:
    node = Node(role=role, ip_addresses=addresses, id="a.b", domain="b.svc.cluster.local")
    return HealthOptions.build(Environment(environment or {}), ProxyConfig(readiness_probe=probe), node)


@pytest.mark.parametrize(
    ("instance_ip", "addresses", "host"),
    [
        ("", ("10.0.0.1",), "127.0.0.1"),
        ("", ("10.0.0.1", "2001:db8::1"), "127.0.0.1"),
        ("", ("2001:db8::1",), "::1"),
        ("2001:db8::1", ("2001:db8::1", "10.0.0.1"), "::1"),
        ("fe80::1", ("10.0.0.1",), "127.0.0.1"),
        ("no address", ("10.0.0.1",), "127.0.0.1"),
    ],
)
def test_the_address_family_decides_where_envoys_admin_is(
    instance_ip: str, addresses: tuple[str, ...], host: str
) -> None:
    built = options({"INSTANCE_IP": instance_ip}, addresses)
    assert built.admin_host == host
    assert built.source_address == {"::1": "::6", "127.0.0.1": "127.0.0.6"}[host]


def test_the_default_host_of_a_probe_is_the_pods_first_address() -> None:
    assert options().probe_host == "10.0.0.1"
    assert options(addresses=()).probe_host == "localhost"
    assert options({"REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION": "true"}).probe_host == "localhost"


def test_dns_is_expected_of_a_sidecar_that_captures_it() -> None:
    assert options({"ISTIO_META_DNS_CAPTURE": "true"}).dns_expected
    assert not options({"ISTIO_META_DNS_CAPTURE": "true"}, role="router").dns_expected
    assert options({"ISTIO_META_ENABLE_DNS_SERVER": "true"}, role="router").dns_expected
    assert not options().dns_expected


def test_a_probe_that_names_no_method_is_ignored() -> None:
    assert options(probe={"periodSeconds": 3}).probe is None
    assert options(probe={"periodSeconds": 3}).ignored_probe
    assert not options().ignored_probe


@pytest.mark.parametrize(
    ("document", "probe"),
    [
        ({"httpGet": {"port": 80}}, ReadinessProbe(method=HttpGet(port=80))),
        (
            {
                "initialDelaySeconds": 2,
                "timeoutSeconds": 3,
                "periodSeconds": 4,
                "successThreshold": 5,
                "failureThreshold": 6,
                "httpGet": {
                    "port": 80,
                    "path": "/p",
                    "scheme": "HTTPS",
                    "host": "h",
                    "httpHeaders": [{"name": "a", "value": "b"}, {"name": "a"}],
                },
            },
            ReadinessProbe(
                initial_delay_s=2,
                timeout_s=3,
                period_s=4,
                success_threshold=5,
                failure_threshold=6,
                method=HttpGet(port=80, path="/p", scheme="https", host="h", headers=(("a", "b"), ("a", ""))),
            ),
        ),
        ({"tcpSocket": {"port": 9, "host": "h"}}, ReadinessProbe(method=TcpSocket(port=9, host="h"))),
        ({"exec": {"command": ["a", "b"]}}, ReadinessProbe(method=Exec(command=("a", "b")))),
        ({"exec": {}}, ReadinessProbe(method=Exec())),
        ({"grpc": {"port": 9, "service": "s"}}, ReadinessProbe(method=Grpc(port=9, service="s"))),
        (
            {"periodSeconds": -1, "timeoutSeconds": 0, "grpc": {}},
            ReadinessProbe(period_s=10, timeout_s=1, method=Grpc()),
        ),
    ],
    ids=["http", "all of http", "tcp", "exec", "empty exec", "grpc", "zero and below"],
)
def test_a_probe_is_read_with_the_defaults_of_the_reference(
    document: dict[str, object], probe: ReadinessProbe
) -> None:
    assert options(probe=document).probe == probe
