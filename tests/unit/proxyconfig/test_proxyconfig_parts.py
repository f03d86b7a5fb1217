"""The pieces: canonical JSON, YAML, rules, downward-API files, addresses."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.proxyconfig import ConfigError, pod_files
from pilot_agent.proxyconfig.addresses import node_addresses, settled_interfaces
from pilot_agent.proxyconfig.canonical import canonical, duration_text
from pilot_agent.proxyconfig.hostport import check_address, split_host_port
from pilot_agent.proxyconfig.interfaces import read_interfaces
from pilot_agent.proxyconfig.layers import DEFAULTS
from pilot_agent.proxyconfig.schema import ENUMS, MESSAGES, ONE_OFS
from pilot_agent.proxyconfig.statsd import look_up_name, resolved
from pilot_agent.proxyconfig.text import as_yaml, parsed
from pilot_agent.proxyconfig.validation import problems, validate

SCALARS = {"string", "bool", "int32", "uint32", "double", "Duration", "BoolValue", "Int32Value", "Int64Value"}


def test_every_type_in_the_table_is_known_and_every_one_of_names_members() -> None:
    kinds = {kind.rpartition(" ")[2] for fields in MESSAGES.values() for kind in fields.values()}

    assert kinds <= SCALARS | MESSAGES.keys() | ENUMS.keys()
    assert all(name in MESSAGES[message] for message, groups in ONE_OFS.items() for g in groups for name in g)


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        ({"config_path": "a", "drain_duration": "1m"}, {"configPath": "a", "drainDuration": "60s"}),
        ({"controlPlaneAuthPolicy": 1}, {"controlPlaneAuthPolicy": "MUTUAL_TLS"}),
        ({"controlPlaneAuthPolicy": "NONE", "interceptionMode": 2}, {"interceptionMode": "NONE"}),
        ({"proxyAdminPort": "15000", "statusPort": 1.0}, {"proxyAdminPort": 15000, "statusPort": 1}),
        ({"unknown": 1, "image": {"imageType": "x", "more": 2}}, {"image": {"imageType": "x"}}),
        ({"concurrency": 0, "statsCompression": False}, {"concurrency": 0, "statsCompression": False}),
        (
            {"tracing": {"stackdriver": {"maxNumberOfAttributes": 7}}},
            {"tracing": {"stackdriver": {"maxNumberOfAttributes": "7"}}},
        ),
        (
            {"tracing": {"sampling": "12.5", "customTags": {"a": {"literal": {}}}}},
            {"tracing": {"sampling": 12.5, "customTags": {"a": {"literal": {}}}}},
        ),
    ],
)
def test_accepted_spellings_become_the_canonical_one(raw: dict[str, Any], want: dict[str, Any]) -> None:
    assert canonical("ProxyConfig", raw) == want


@pytest.mark.parametrize(
    "raw",
    [
        {"configPath": 5},
        {"statusPort": True},
        {"statusPort": 2**31},
        {"fileFlushMinSizeKb": -1},
        {"extraStatTags": "a"},
        {"proxyMetadata": {"A": 1}},
        {"drainDuration": 45},
        {"drainDuration": "45"},
        {"statsCompression": "true"},
        {"serviceCluster": "a", "tracingServiceName": 0},
        {"tracing": []},
        ["configPath"],
    ],
)
def test_a_value_that_does_not_fit_is_refused(raw: object) -> None:
    with pytest.raises(ConfigError):
        canonical("ProxyConfig", raw)


@pytest.mark.parametrize(
    ("nanos", "want"),
    [(45 * 10**9, "45s"), (250_000_000, "0.250s"), (-1_500_000_000, "-1.500s"), (1, "0.000000001s")],
)
def test_durations_have_no_three_or_more_decimals(nanos: int, want: str) -> None:
    assert duration_text(nanos) == want


def test_yaml_is_read_as_the_reference_reads_it() -> None:
    text = "a: 1:30\nb: 2026-01-31\nc: yes\n2: x\ntrue: y\n"

    assert parsed(text) == {
        "a": "1:30",
        "b": "2026-01-31",
        "c": True,
        "2": "x",
        "true": "y",
    }
    assert parsed("{a: 1}") == {"a": 1}


texts = st.text(max_size=12)
documents = st.recursive(
    texts | st.booleans() | st.integers(-(2**31), 2**31),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, documents, max_size=4))
def test_what_is_printed_as_yaml_reads_back(document: dict[str, Any]) -> None:
    assert yaml.safe_load(as_yaml(document)) == document


@pytest.mark.parametrize(
    "text", ["1:20", "0x10", "1e3", "2026-01-31", "~", "yes", ".5", "1_000", "- a", "a: b", "a #b"]
)
def test_a_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert yaml.safe_load(as_yaml({"k": text})) == {"k": text}


def test_plain_texts_stay_plain() -> None:
    assert (
        as_yaml({"b": "45s", "a": ["10.0.0.1:9125", {"x": "z"}]}) == "a:\n- 10.0.0.1:9125\n- x: z\nb: 45s\n"
    )


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({"configPath": "", "binaryPath": ""}, ["config path must be set", "binary path must be set"]),
        ({"serviceCluster": ""}, ["service cluster must be specified"]),
        ({"drainDuration": "0s"}, ["invalid drain duration: duration must be greater than 1ms"]),
        ({"drainDuration": "1.500s"}, ["drain time only supports durations to seconds precision"]),
        ({"discoveryAddress": ""}, ["discovery address must be set to the proxy discovery service"]),
        (
            {"discoveryAddress": "a_b:1"},
            ['invalid discovery address: "a_b" is not a valid hostname or an IP address'],
        ),
        (
            {"statsdUdpAddress": "x:0"},
            ['invalid statsd udp address "x:0": port number 0 must be in the range 1..65535'],
        ),
        (
            {"tracing": {"lightstep": {}}},
            [
                "invalid lightstep config: address is required",
                (
                    "invalid lightstep config: invalid lightstep address: "
                    'unable to split "": address : missing port in address'
                ),
                "invalid lightstep config: access token is required",
            ],
        ),
        ({"tracing": {"zipkin": {"address": "$(HOST_IP):9411"}}}, []),
        (
            {"tracing": {"tlsSettings": {"mode": "MUTUAL"}}},
            [
                "invalid tracing TLS config: client certificate required for mutual tls",
                "invalid tracing TLS config: private key required for mutual tls",
            ],
        ),
        ({"statusPort": 0}, ["invalid status port: port number 0 must be in the range 1..65535"]),
        (
            {"controlPlaneAuthPolicy": "INHERIT"},
            ['invalid authentication policy: unrecognized control plane auth policy "INHERIT"'],
        ),
        (
            {"privateKeyProvider": {"qat": {"pollDelay": "0s"}}},
            ["invalid private key provider configuration: pollDelay must be non zero"],
        ),
        (
            {"connectionSettings": {"http2InitialStreamWindowSize": 1, "httpIdleTimeout": "-1s"}},
            [
                "invalid connection settings: httpIdleTimeout must not be negative, got -1s",
                "invalid connection settings: http2InitialStreamWindowSize must be at least 65535, got 1",
            ],
        ),
    ],
)
def test_each_broken_rule_is_named(change: dict[str, Any], want: list[str]) -> None:
    assert list(problems({**DEFAULTS, **change})) == want


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        validate({**DEFAULTS, "proxyAdminPort": 0, "statusPort": 0})

    assert str(error.value) == (
        "2 errors occurred:\n"
        "\t* invalid proxy admin port: port number 0 must be in the range 1..65535\n"
        "\t* invalid status port: port number 0 must be in the range 1..65535\n\n"
    )


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("host", "missing port in address"),
        ("::1:80", "too many colons in address"),
        ("[::1", "missing ']' in address"),
        ("[::1]", "missing port in address"),
    ],
)
def test_an_address_that_does_not_split_is_refused_in_go_s_words(address: str, reason: str) -> None:
    with pytest.raises(ValueError, match="address") as error:
        split_host_port(address)
    assert str(error.value) == f"address {address}: {reason}"


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert split_host_port("[2001:db8::1]:80") == ("2001:db8::1", "80")
    check_address("[2001:db8::1]:80")


def test_downward_api_values_are_go_string_literals() -> None:
    text = 'a="x\\ny \\"q\\" \\u00e4 \\x41 \\101 \\xc3\\xa4"\nno separator\nb="="\nc=""\n'

    assert pod_files.parse(text) == {"a": 'x\ny "q" ä A A ä', "b": "=", "c": ""}


@pytest.mark.parametrize("line", ["a=x", 'a="', 'a="\\q"', 'a="\\400"', 'a="x"y"', 'a="\\ud800"'])
def test_one_value_that_does_not_unquote_voids_the_whole_file(
    line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels").write_text(f'ok="1"\n{line}\n', encoding="utf-8")

    assert pod_files.read_pod_file(tmp_path / "labels", "labels") is None
    assert "warn\tfailed to read pod labels: " in capfd.readouterr().out


def test_a_missing_pod_file_is_no_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert pod_files.read_pod_file(tmp_path / "labels", "labels") is None
    assert capfd.readouterr().out == ""


def test_addresses_that_say_nothing_about_the_node_are_left_out() -> None:
    interfaces = {
        "eth0": ("10.0.0.1", "fe80::1", "169.254.0.1", "127.0.0.9", "::ffff:10.0.0.3", "10.0.0.2"),
        "net1": ("10.1.0.1",),
    }

    assert node_addresses("10.0.0.2", interfaces, ("net1",)) == ("10.0.0.2", "10.0.0.1", "10.0.0.3")
    assert node_addresses("no address", interfaces)[-1] == "10.1.0.1"
    assert node_addresses("", {}) == ("127.0.0.1", "::1")


def test_interfaces_are_read_again_while_one_has_no_address_yet() -> None:
    answers = iter([{"eth0": ("0.0.0.0",)}, {"eth0": ("0.0.0.0",)}, {"eth0": ("10.0.0.1",)}])
    pauses: list[float] = []

    got = settled_interfaces(lambda: next(answers), now=lambda: len(pauses) * 0.1, pause=pauses.append)

    assert got == {"eth0": ("10.0.0.1",)}
    assert pauses == [0.1, 0.1]


def test_an_address_that_never_comes_is_not_waited_for_beyond_two_minutes() -> None:
    clock = [0.0]

    def pause(seconds: float) -> None:
        clock[0] += seconds * 100

    got = settled_interfaces(lambda: {"eth0": ("0.0.0.0",)}, now=lambda: clock[0], pause=pause)

    assert got == {"eth0": ("0.0.0.0",)}
    assert 120 <= clock[0] < 140


def test_the_machine_s_own_interfaces_never_include_the_loopback() -> None:
    assert "lo" not in read_interfaces()


def test_statsd_prefers_the_first_ipv4_address() -> None:
    answers = ["2001:db8::1", "10.0.0.1", "10.0.0.2"]

    assert resolved("statsd:8125", lambda _: answers) == "10.0.0.1:8125"
    assert resolved("statsd:8125", lambda _: answers[:1]) == "[2001:db8::1]:8125"
    assert resolved("[2001:db8::9]:1") == "[2001:db8::9]:1"


def test_a_name_is_looked_up_in_a_program_of_its_own() -> None:
    assert set(look_up_name("localhost")) & {"127.0.0.1", "::1"}
    with pytest.raises(ValueError, match=r"lookup no-such-host\.invalid: "):
        look_up_name("no-such-host.invalid")
