"""What variables and ProxyConfig mean for Envoy's life; waits and wait statuses."""

import math

import pytest
from msgspec.structs import replace

from pilot_agent.environment import Environment
from pilot_agent.envoy import EnvoyOptions
from pilot_agent.envoy.backoff import crash_wait_s, hot_restart_wait_s
from pilot_agent.envoy.wait_status import describe, is_kill, is_success
from pilot_agent.proxyconfig import Node, ProxyConfig

NODE = Node(role="sidecar", ip_addresses=("10.0.0.1",), id="pod.ns", domain="d")


def build(
    config: ProxyConfig | None = None, node: Node = NODE, *, uid: int = 1337, **variables: str
) -> EnvoyOptions:
    return EnvoyOptions.build(Environment(variables), config or ProxyConfig(), node, agent_uid=uid)


def test_the_defaults_are_the_reference_s_and_a_hot_restart_at_each_rotation() -> None:
    options = build()
    assert (options.rotation_policy, options.restart_policy, options.enabled) == (
        "hot-restart",
        "on-failure",
        True,
    )
    assert (options.drain_time_s, options.parent_shutdown_s, options.termination_drain_s) == (45, 60, 5.0)
    assert (options.minimum_drain_s, options.exit_on_zero_active_connections) == (5.0, False)
    assert (options.config_path, options.admin_port, options.inbound_only) == ("etc/istio/proxy", 15000, True)
    assert (options.uid, options.gid, options.admin_host) == (-1, -1, "127.0.0.1")
    assert options.wants_hot_restart(custom_bootstrap=False)


def test_an_old_epoch_gets_at_least_five_seconds_after_its_drain() -> None:
    assert build(ProxyConfig(drain_duration_s=120.0)).parent_shutdown_s == 125
    assert build(ProxyConfig(parent_shutdown_duration_s=90.5)).parent_shutdown_s == 91


@pytest.mark.parametrize("value", ["sds", "hot-restart"])
def test_the_rotation_policy_is_read(value: str) -> None:
    assert build(CERT_ROTATION_POLICY=value).rotation_policy == value


def test_an_unknown_policy_warns_and_means_the_default() -> None:
    environment = Environment({"CERT_ROTATION_POLICY": "hot", "ENVOY_RESTART_POLICY": "always"})
    options = EnvoyOptions.build(environment, ProxyConfig(), NODE)
    assert (options.rotation_policy, options.restart_policy) == ("hot-restart", "on-failure")
    assert [text.split(":")[0] for text in environment.warnings] == [
        "Invalid environment variable value `hot` for CERT_ROTATION_POLICY, using default hot-restart",
        "Invalid environment variable value `always` for ENVOY_RESTART_POLICY, using default on-failure",
    ]


def test_a_custom_bootstrap_is_hot_restarted_only_when_asked_for() -> None:
    assert not build().wants_hot_restart(custom_bootstrap=True)
    assert build(CERT_ROTATION_POLICY="hot-restart").wants_hot_restart(custom_bootstrap=True)
    assert not build(CERT_ROTATION_POLICY="sds").wants_hot_restart(custom_bootstrap=False)


@pytest.mark.parametrize(
    ("uid", "address", "envoy_uid"),
    [
        (0, "127.0.0.1:53", 1337),
        (0, "localhost:15053", -1),
        (1337, "127.0.0.1:53", -1),
        (0, "127.0.0.1:1053", -1),
    ],
)
def test_envoy_runs_as_1337_where_a_root_agent_serves_dns_on_port_53(
    uid: int, address: str, envoy_uid: int
) -> None:
    options = build(uid=uid, DNS_PROXY_ADDR=address)
    assert (options.uid, options.gid) == (envoy_uid, envoy_uid)


@pytest.mark.parametrize(
    ("policy", "limited"), [("fips-140-2", True), ("fips-140-3", True), ("pqc", False), ("", False)]
)
def test_fips_policies_limit_the_ciphers_of_envoy_s_grpc_clients(policy: str, limited: bool) -> None:
    environment = build(COMPLIANCE_POLICY=policy, HOME="/x").environment
    assert environment["HOME"] == "/x"
    assert ("GRPC_SSL_CIPHER_SUITES" in environment) is limited


def test_ports_of_the_agent_s_own_listeners_are_known() -> None:
    assert build().own_ports == (15021, 15090)
    own = build(ENVOY_STATUS_PORT="1", ENVOY_PROMETHEUS_PORT="2", ENVOY_SECURE_METRICS_PORT="3")
    assert own.own_ports == (1, 2, 3)


def test_nodes_without_ipv4_have_their_admin_on_ipv6() -> None:
    assert build(node=replace(NODE, ip_addresses=("fd00::1",))).admin_host == "::1"
    assert build(node=replace(NODE, ip_addresses=("fd00::1", "10.0.0.1"))).admin_host == "127.0.0.1"


def test_a_router_drains_all_its_listeners() -> None:
    assert not build(node=replace(NODE, role="router")).inbound_only


def test_how_long_the_end_may_take_depends_on_what_is_waited_for() -> None:
    assert build(ProxyConfig(termination_drain_duration_s=120.0)).longest_ending_s == 130.0
    assert build(EXIT_ON_ZERO_ACTIVE_CONNECTIONS="true").longest_ending_s == math.inf


# Waits


def test_crash_waits_double_from_a_fifth_of_a_second_to_ten_seconds() -> None:
    for attempt, least_s in ((1, 0.2), (2, 0.4), (4, 1.6), (20, 10.0)):
        drawn = [crash_wait_s(attempt) for _ in range(20)]
        assert all(least_s <= each <= least_s + 0.2 for each in drawn)
        assert len(set(drawn)) > 1  # jitter


def test_refused_hot_restarts_wait_longer_up_to_ten_minutes() -> None:
    for attempt, least_s in ((1, 10.0), (2, 20.0), (50, 600.0)):
        assert least_s <= hot_restart_wait_s(attempt) <= least_s + 5.0


# Wait statuses


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (1 << 8, "exit status 1"),
        (255 << 8, "exit status 255"),
        (9, "signal: killed"),
        (15, "signal: terminated"),
        (11 | 0x80, "signal: segmentation fault (core dumped)"),
        (6, "signal: aborted"),
        (34, "signal: signal 34"),
    ],
)
def test_wait_statuses_are_told_in_go_s_words(status: int, words: str) -> None:
    assert describe(status) == words


def test_what_is_a_success_and_what_a_kill() -> None:
    assert [is_success(status) for status in (0, 1 << 8, 9)] == [True, False, False]
    assert [is_kill(status) for status in (0, 9 << 8, 9, 15)] == [False, False, True, False]


def test_envoy_gets_no_variable_that_is_the_agent_s_alone() -> None:
    given = {
        "HOST_IP": "10.0.0.1",
        "XDS_HEADER_AUTHORIZATION": "secret",
        "CA_HEADER_X": "secret",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "PYTHONPATH": "/x",
        "MY_XDS_HEADER_X": "kept",
    }
    options = EnvoyOptions.build(Environment(given), ProxyConfig(), NODE)
    assert options.environment == {"HOST_IP": "10.0.0.1", "MY_XDS_HEADER_X": "kept"}
    given["ENVOY_ENV_FILTER"] = "off"
    assert EnvoyOptions.build(Environment(given), ProxyConfig(), NODE).environment == given


@pytest.mark.parametrize(
    ("text", "status", "warned"),
    [("77", 77, False), ("0", 0, False), ("256", 0, True), ("-1", 0, True), ("x", 0, True)],
)
def test_the_exit_status_of_a_crash_loop(text: str, status: int, warned: bool) -> None:
    environment = Environment({"ENVOY_CRASH_LOOP_EXIT_CODE": text})
    assert EnvoyOptions.build(environment, ProxyConfig(), NODE).crash_loop_status == status
    assert bool(environment.warnings) is warned
