"""Where the settings come from, and what is wrong with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.capture.errors import ConfigurationError
from pilot_agent.capture.iptables_rules import build_rules
from pilot_agent.capture.machine import decisive_address, dns_servers
from pilot_agent.capture.nftables_rules import build_transaction
from pilot_agent.capture.options import CaptureSettings, Machine, build, check
from pilot_agent.capture.rules import restore_input
from pilot_agent.cli.capture import _ROWS, FLAGS, CaptureFlag
from pilot_agent.cli.errors import CliError
from tests.support.capture_golden import settings_for

SAMPLES = {"bool": ("true", True), "uint16": ("77", 77), "duration": ("90s", 90.0), "string": ("7", "7")}


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.name)
def test_every_flag_fills_its_member_and_so_do_its_variables(row: CaptureFlag) -> None:
    text, value = SAMPLES[row.kind]

    assert getattr(settings_for(f"--{row.name}={text}"), row.member) == value
    if row.shorthand:
        words = (f"-{row.shorthand}",) if row.kind == "bool" else (f"-{row.shorthand}", text)
        assert getattr(settings_for(*words), row.member) == value
    for name in row.variables:
        assert getattr(settings_for(environment={name: text}), row.member) == value
    assert set(CaptureSettings._fields) >= {row.member}


def test_without_anything_the_defaults_hold() -> None:
    assert settings_for() == CaptureSettings()


def test_the_command_line_goes_before_the_extra_variable_and_that_before_the_variable() -> None:
    both = {"ISTIO_DUAL_STACK": "false", "DUAL_STACK": "true"}

    assert settings_for(environment=both).dual_stack is False
    assert settings_for("--dual-stack", environment=both).dual_stack is True
    assert settings_for("--dual-stack=false", environment={"DUAL_STACK": "true"}).dual_stack is False


def test_a_variable_that_does_not_parse_counts_as_not_set() -> None:
    environment = {"REDIRECT_DNS": "banana", "PROBE_TIMEOUT": "5", "IPTABLES_PROBE_PORT": "70000"}

    assert settings_for(environment=environment) == CaptureSettings()
    assert settings_for(environment={"ISTIO_META_DNS_CAPTURE": "banana", "REDIRECT_DNS": "true"}).redirect_dns


def test_a_variable_set_to_nothing_counts_as_set() -> None:
    assert settings_for(environment={"INBOUND_CAPTURE_PORT": ""}).inbound_capture_port == ""
    assert settings_for(environment={"ISTIO_OUTBOUND_OWNER_GROUPS": ""}).owner_groups == ""


def test_the_outbound_port_has_no_variable() -> None:
    assert settings_for(environment={"ENVOY_PORT": "1"}).envoy_port == "15001"


@pytest.mark.parametrize(
    "words",
    [
        ("-f",),
        ("--restore-format=false",),
        ("--iptables-trace-logging",),
        ("--output-paths", "x"),
        ("extra",),
    ],
)
def test_what_older_releases_pass_has_no_effect(words: tuple[str, ...]) -> None:
    assert settings_for(*words) == CaptureSettings()


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("--probe-timeout=5", 'invalid argument "5" for "--probe-timeout" flag: time: missing unit'),
        ("--iptables-probe-port=70000", 'parsing "70000": value out of range'),
        ("--iptables-probe-port=-1", 'parsing "-1": invalid syntax'),
        ("--dual-stack=maybe", 'invalid argument "maybe" for "--dual-stack" flag'),
        ("--no-such-flag", "unknown flag: --no-such-flag"),
    ],
)
def test_a_wrong_flag_is_an_error_of_the_command_line(word: str, text: str) -> None:
    with pytest.raises(CliError, match=r".") as caught:
        settings_for(word)

    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("cidr", "text"),
    [
        ("10.0.0.0/8", "expected valid IPv4 loopback address in CIDR 10.0.0.0/8; found 10.0.0.0"),
        ("127.0.0.1/7", "expected CIDR 127.0.0.1/7 to have mask in range [8, 32]; found 7"),
        ("::1/128", "expected valid IPv4 loopback address in CIDR ::1/128; found ::1"),
        ("banana", "failed to parse CIDR"),
        ("", "failed to parse CIDR"),
    ],
)
def test_the_loopback_prefix_must_be_one(cidr: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(CaptureSettings(ipv4_loopback_cidr=cidr))

    assert text in str(caught.value)


def test_more_groups_than_fit_into_a_rule_are_refused_and_excluded_ones_are_not_counted() -> None:
    many = ",".join(map(str, range(65)))

    check(CaptureSettings(owner_groups_exclude=many))
    check(CaptureSettings(owner_groups=many.rpartition(",")[0]))
    with pytest.raises(ConfigurationError, match=r"cannot exceed 64, got 65: \[0 1 2"):
        check(CaptureSettings(owner_groups=many))


@pytest.mark.parametrize(
    ("addresses", "dual_stack", "expected"),
    [
        (["127.0.0.1", "10.0.0.1", "fd00::1"], False, "10.0.0.1"),
        (["127.0.0.1", "10.0.0.1", "fd00::1"], True, "fd00::1"),
        (["127.0.0.1", "10.0.0.1", "fe80::1"], True, "10.0.0.1"),
        (["::1", "169.254.1.1", "fe80::1", "fd00::1"], False, "fd00::1"),
        (["::ffff:10.0.0.1"], False, "10.0.0.1"),
        (["10.0.0.1", "10.0.0.2"], True, "10.0.0.2"),
    ],
)
def test_the_first_usable_address_decides(addresses: list[str], dual_stack: bool, expected: str) -> None:
    assert decisive_address(addresses, dual_stack=dual_stack) == expected


def test_no_usable_address_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no valid local IP address found"):
        decisive_address(
            ["127.0.0.1", "::1", "fe80::1", "169.254.0.1", "224.0.0.5", "ff02::1"], dual_stack=True
        )


def test_what_is_no_server_in_resolv_conf_is_skipped() -> None:
    text = (
        "# nameserver 9.9.9.9\nnameserver 10.0.0.1\nnameserver\nnameserver x\n nameserver ::127.0.0.53 # y\n"
    )

    assert dns_servers(text + "nameserver fe80::1%eth0\noptions ndots:5") == (("10.0.0.1",), ("::7f00:35",))


words = st.lists(
    st.one_of(
        st.sampled_from([f"--{flag.name}" for flag in FLAGS] + [f"-{flag.shorthand}" for flag in FLAGS]),
        st.sampled_from(
            ["*", "true", "false", "1", "10.0.0.0/8,fd00::/8", "TPROXY", "15001,x", "5s", "", "-", "--"]
        ),
        st.text(max_size=8),
        st.builds("--{}={}".format, st.sampled_from([flag.name for flag in FLAGS]), st.text(max_size=8)),
    ),
    max_size=12,
)
environments = st.dictionaries(
    st.sampled_from([name for row in _ROWS for name in row.variables] + ["ISTIO_OUTBOUND_OWNER_GROUPS"]),
    st.text(max_size=8),
    max_size=4,
)


@given(words, environments, st.booleans())
def test_any_command_line_gives_rules_or_an_error_that_is_meant_for_the_user(
    line: list[str], environment: dict[str, str], ipv6: bool
) -> None:
    try:
        settings = settings_for(*line, environment=environment)
        check(settings)
        options = build(
            settings, Machine(has_ipv6=ipv6, dns_servers_v4=("10.0.0.1",), dns_servers_v6=("fd00::1",))
        )
    except (CliError, ConfigurationError):
        return
    rules = build_rules(options)
    for family in (4, 6):
        lines = restore_input(rule for rule in rules if rule.family == family).split("\n")
        assert {line.split(" ")[0] for line in lines} <= {"*", "-N", "-A", "-I", "COMMIT", ""}
        assert bool(lines[0]) == (family == 4 or ipv6)
    transaction = build_transaction(options)
    assert {line.split(" ")[0] for line in transaction} <= {"add", "flush", "insert"}
    assert not any("\n" in line for line in transaction)
