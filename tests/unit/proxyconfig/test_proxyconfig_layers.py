"""ProxyConfig from its layers."""

import json
from pathlib import Path
from typing import Any

import pytest

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import ConfigError, Loaded, ProxyFlags, load
from pilot_agent.proxyconfig.layers import DEFAULTS, with_layer
from pilot_agent.proxyconfig.text import parsed

RECORDED_LOG = Path(__file__).parents[2] / "data" / "recordings" / "sidecar.log-start-and-sigterm.txt"


def loaded(
    variables: dict[str, str] | None = None,
    *,
    working_dir: Path = Path("/nonexistent"),
    cpu_count: int = 2,
    flags: ProxyFlags | None = None,
) -> Loaded:
    return load(
        Environment(variables or {}),
        flags or ProxyFlags(),
        working_dir,
        read_interfaces=lambda: {"eth0": ("10.0.0.7",)},
        cpu_count=cpu_count,
    )


def config(variables: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return dict(loaded(variables, **more).proxy_config.document)


def pod_file(working_dir: Path, name: str, pairs: dict[str, str]) -> None:
    folder = working_dir / "etc/istio/pod"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{key}={json.dumps(value)}\n" for key, value in pairs.items())
    (folder / name).write_text(text, encoding="utf-8")


def test_without_any_layer_the_defaults_hold() -> None:
    made = loaded().proxy_config

    assert made.document == DEFAULTS
    assert (made.drain_duration_s, made.parent_shutdown_duration_s, made.concurrency) == (45.0, 60.0, None)


def test_the_parent_shutdown_of_older_releases_is_read_and_carried_only_when_set() -> None:
    made = loaded({"PROXY_CONFIG": '{"parentShutdownDuration": "1m30s"}'}).proxy_config

    assert made.parent_shutdown_duration_s == 90.0
    assert made.document["parentShutdownDuration"] == "90s"


def test_mesh_file_variable_and_annotation_are_laid_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "mesh").write_text("defaultConfig:\n  meshId: file\n  proxyAdminPort: 1\n", encoding="utf-8")
    pod_file(tmp_path, "annotations", {"proxy.istio.io/config": "proxyAdminPort: 3\nproxyMetadata: {B: c}"})
    variables = {
        "PROXY_CONFIG": '{"proxyAdminPort": 2, "statusPort": 4, "proxyMetadata": {"A": "a", "B": "b"}}'
    }

    made = config(variables, working_dir=tmp_path, flags=ProxyFlags(mesh_config="mesh"))

    assert (made["meshId"], made["proxyAdminPort"], made["statusPort"]) == ("file", 3, 4)
    assert made["proxyMetadata"] == {"A": "a", "B": "c"}


def test_a_present_member_replaces_the_earlier_one_as_a_whole() -> None:
    first = with_layer(
        DEFAULTS, '{"tracing": {"sampling": 5, "zipkin": {"address": "a:1"}}, "extraStatTags": ["x"]}'
    )

    again = with_layer(
        first, '{"tracing": {"zipkin": {"address": "b:1"}}, "extraStatTags": [], "meshId": null}'
    )

    assert again["tracing"] == {"zipkin": {"address": "b:1"}}
    assert "extraStatTags" not in again


def test_five_members_of_the_proxy_headers_survive_a_layer_without_them() -> None:
    first = with_layer(
        {},
        '{"proxyHeaders": {"requestId": {"disabled": true}, "server": {"value": "s"}, '
        '"xForwardedHost": {"enabled": true}}}',
    )

    again = with_layer(first, '{"proxyHeaders": {"server": {"disabled": true}}}')

    assert again["proxyHeaders"] == {"requestId": {"disabled": True}, "server": {"disabled": True}}


def test_a_member_of_a_one_of_puts_out_the_other() -> None:
    made = config({"PROXY_CONFIG": '{"tracingServiceName": "APP_LABEL_AND_NAMESPACE"}'})

    assert made["tracingServiceName"] == "APP_LABEL_AND_NAMESPACE"
    assert "serviceCluster" not in made


def test_the_service_cluster_flag_counts_only_where_the_config_s_is_empty() -> None:
    flags = ProxyFlags(service_cluster="mine")

    assert config(flags=flags)["serviceCluster"] == "istio-proxy"
    assert config({"PROXY_CONFIG": '{"serviceCluster": ""}'}, flags=flags)["serviceCluster"] == "mine"


@pytest.mark.parametrize(
    ("text", "limit", "flag", "want"),
    [
        ("{}", "4", 0, 4),
        ('{"concurrency": 0}', "4", 0, 0),
        ('{"concurrency": 3}', "4", 5, 5),
        ("{}", "0", 0, None),
    ],
    ids=["limit", "explicit-zero-beats-the-limit", "flag-beats-all", "nothing"],
)
def test_concurrency_comes_from_flag_config_or_cpu_limit(
    text: str, limit: str, flag: int, want: int | None
) -> None:
    variables = {"PROXY_CONFIG": text, "ISTIO_CPU_LIMIT": limit}

    assert loaded(variables, flags=ProxyFlags(concurrency=flag)).proxy_config.concurrency == want


def test_more_cpus_than_the_limit_and_no_concurrency_are_worth_a_warning(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loaded({"PROXY_CONFIG": '{"concurrency": 0}', "ISTIO_CPU_LIMIT": "4"}, cpu_count=8)
    assert "CPU count: 8, CPU Limit: 4." in capfd.readouterr().out
    loaded({"PROXY_CONFIG": '{"concurrency": 0}', "ISTIO_CPU_LIMIT": "8"}, cpu_count=8)
    assert "CPU count" not in capfd.readouterr().out


def test_annotations_of_their_own_replace_discovery_and_status_port_unchecked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pod_file(
        tmp_path,
        "annotations",
        {"sidecar.istio.io/discoveryAddress": "x", "status.sidecar.istio.io/port": "no"},
    )

    made = loaded(working_dir=tmp_path).proxy_config

    assert (made.discovery_address, made.status_port) == ("x", 0)
    assert (
        'Invalid annotation status.sidecar.istio.io/port=no: strconv.Atoi: parsing "no"'
        in capfd.readouterr().out
    )


def test_a_template_flag_is_ignored_beside_a_custom_config_file() -> None:
    flags = ProxyFlags(template_file="t.json")

    assert config(flags=flags)["proxyBootstrapTemplatePath"] == "t.json"
    made = config({"PROXY_CONFIG": '{"customConfigFile": "c.json"}'}, flags=flags)
    assert "proxyBootstrapTemplatePath" not in made


@pytest.mark.parametrize(
    ("variables", "mesh", "want"),
    [
        (
            {"PROXY_CONFIG": '{"proxyAdminPort": "x"}'},
            "",
            (
                'failed to unmarshal mesh config from environment [{"proxyAdminPort": "x"}]: '
                "could not parse proxy config: "
                "json: cannot unmarshal string into field proxyAdminPort of type int32"
            ),
        ),
        (
            {"PROXY_CONFIG": "a: [1"},
            "",
            (
                "failed to unmarshal mesh config from environment [a: [1]: could not parse proxy config: "
                "error converting YAML to JSON: yaml: "
            ),
        ),
        (
            {},
            "defaultConfig:\n  controlPlaneAuthPolicy: SOME",
            (
                "failed to unmarshal mesh config from file [defaultConfig:\n  controlPlaneAuthPolicy: SOME]: "
                'failed to convert to proto. unknown value "SOME" for enum AuthenticationPolicy'
            ),
        ),
        (
            {},
            "proxyListenPort: 70000\ntrustDomain: a_b",
            (
                "[proxyListenPort: 70000\ntrustDomain: a_b]: 2 errors occurred:\n"
                "\t* invalid proxy listen port: port number 70000 must be in the range 1..65535\n"
                '\t* trustDomain: trust domain name "a_b" invalid\n\n'
            ),
        ),
    ],
    ids=["wrong-type", "no-yaml", "mesh-enum", "mesh-rules"],
)
def test_a_layer_that_is_wrong_ends_the_agent_naming_it(
    variables: dict[str, str], mesh: str, want: str, tmp_path: Path
) -> None:
    (tmp_path / "mesh").write_text(mesh, encoding="utf-8")

    with pytest.raises(ConfigError) as error:
        loaded(variables, working_dir=tmp_path, flags=ProxyFlags(mesh_config="mesh"))

    assert str(error.value).startswith("failed to get proxy config: ")
    assert want in str(error.value)


def test_the_lines_of_a_start_are_the_recorded_ones(capfd: pytest.CaptureFixture[str]) -> None:
    recorded = RECORDED_LOG.read_text(encoding="utf-8")
    want = recorded[recorded.index("Apply proxy config") : recorded.index("JWT policy")].rsplit("\n", 1)[0]
    variables = {"PROXY_CONFIG": '{"binaryPath":"$ENVOY_BIN","concurrency":2}', "ISTIO_CPU_LIMIT": "2"}

    loaded(variables)

    got = capfd.readouterr().out
    assert "\tinfo\tProxy role\tips=[10.0.0.7] type=sidecar id=. domain=.svc.cluster.local\n" in got
    assert _without_times(got[got.index("Apply proxy config") :]) == _without_times(want + "\n")


def _without_times(text: str) -> list[str]:
    return [line.partition("Z\tinfo\t")[2] or line for line in text.split("\n")]


def test_the_node_s_parts_come_from_pod_and_flags() -> None:
    variables = {"POD_NAME": "web-1", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.9.9.9"}

    node = loaded(variables, flags=ProxyFlags(role="router")).node
    named = loaded(variables, flags=ProxyFlags(domain="d")).node

    assert node.service_node == "router~10.9.9.9~web-1.shop~shop.svc.cluster.local"
    assert (named.domain, named.ip_addresses) == ("d", ("10.9.9.9", "10.0.0.7"))


def test_interfaces_named_in_the_annotation_do_not_count(tmp_path: Path) -> None:
    pod_file(tmp_path, "annotations", {"traffic.sidecar.istio.io/excludeInterfaces": "eth1, eth0"})

    assert loaded(working_dir=tmp_path).node.ip_addresses == ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "yaml: line 1: expected the node content, but found '<stream end>'"),
        ("a: b\nc: d: e", "yaml: line 2: mapping values are not allowed here"),
        ("\x01", "yaml: unacceptable character #x0001: special characters are not allowed"),
        ("!!python/name:os.system", "yaml: line 1: could not determine a constructor for the tag "),
    ],
)
def test_what_is_wrong_with_yaml_is_told_in_one_line_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        parsed(text)
    assert str(told.value).startswith("error converting YAML to JSON: " + words)
    assert "\n" not in str(told.value)
