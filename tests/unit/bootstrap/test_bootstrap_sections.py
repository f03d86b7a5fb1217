"""Single sections of the document, under conditions that no recorded run has."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilot_agent.bootstrap import (
    BootstrapError,
    BootstrapOptions,
    HotRestart,
    Platform,
    document,
    envoy_arguments,
    lightstep_token_file,
    render,
)
from pilot_agent.bootstrap.arguments import log_levels
from pilot_agent.bootstrap.families import families
from pilot_agent.bootstrap.limits import max_downstream_connections
from pilot_agent.bootstrap.override import override_text, read_override
from pilot_agent.bootstrap.stats import stats_intervals
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import ProxyFlags, load

NOWHERE = Path("/nonexistent")
NO_CLOUD = Platform(name="none")


def options(
    config: dict[str, Any] | None = None,
    variables: dict[str, str] | None = None,
    *,
    addresses: tuple[str, ...] = ("10.0.0.7",),
    flags: ProxyFlags | None = None,
    working_dir: Path = NOWHERE,
    platform: Platform = NO_CLOUD,
) -> BootstrapOptions:
    environment = Environment({"PROXY_CONFIG": json.dumps(config or {})} | (variables or {}))
    loaded = load(
        environment, flags or ProxyFlags(), working_dir, read_interfaces=lambda: {"eth0": addresses}
    )
    return BootstrapOptions.build(
        environment, loaded, working_dir=working_dir, platform=platform, credential_socket=False
    )


def clusters(made: BootstrapOptions) -> dict[str, Any]:
    return {cluster["name"]: cluster for cluster in document(made)["static_resources"]["clusters"]}


def test_a_generation_is_told_to_the_ads_server_and_changes_nothing_else() -> None:
    made = options()
    plain, numbered = document(made), document(made, generation=7)

    service = numbered["dynamic_resources"]["ads_config"]["grpc_services"][0]
    assert service.pop("initial_metadata") == [{"key": "x-envoy-generation", "value": "7"}]
    assert plain == numbered


def test_an_overlapping_envoy_gets_its_admin_port_in_both_places() -> None:
    made = document(options(), admin_port=15999)

    stats = made["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]
    assert made["admin"]["address"]["socket_address"]["port_value"] == 15999
    assert stats["endpoint"]["address"]["socket_address"]["port_value"] == 15999


def test_a_mutual_tls_metrics_service_has_its_keepalive_names_and_certificates() -> None:
    service = {
        "address": "[2001:db8::9]:15000",
        "tlsSettings": {
            "mode": "MUTUAL",
            "clientCertificate": "/c",
            "privateKey": "/k",
            "caCertificates": "/ca",
            "sni": "metrics",
            "subjectAltNames": ["spiffe://a"],
        },
        "tcpKeepalive": {"probes": 3, "time": "10s", "interval": "0s"},
    }
    variables = {"ISTIO_META_TLS_CLIENT_CERT_CHAIN": "/meta-c"}
    cluster = clusters(options({"envoyMetricsService": service}, variables))["envoy_metrics_service"]

    context = cluster["transport_socket"]["typed_config"]
    common = context["common_tls_context"]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"] == {"socket_address": {"address": "2001:db8::9", "port_value": 15000}}
    keepalive = cluster["upstream_connection_options"]["tcp_keepalive"]
    assert keepalive == {"keepalive_probes": 3, "keepalive_time": 10}
    assert (context["sni"], common["alpn_protocols"]) == ("metrics", ["h2"])
    assert common["tls_certificate_sds_secret_configs"][0]["name"] == "file-cert:/meta-c~/k"
    validation = common["combined_validation_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "file-root:/ca"
    assert validation["default_validation_context"] == {"match_subject_alt_names": [{"exact": "spiffe://a"}]}


def test_an_istio_mutual_access_log_service_waits_for_the_mesh_s_own_secrets() -> None:
    service = {"address": "als:1", "tlsSettings": {"mode": "ISTIO_MUTUAL"}}
    cluster = clusters(options({"envoyAccessLogService": service}))["envoy_accesslog_service"]

    context = cluster["transport_socket"]["typed_config"]
    secret = context["common_tls_context"]["tls_certificate_sds_secret_configs"][0]
    assert context["sni"] == "envoy_accesslog_service"
    assert context["common_tls_context"]["alpn_protocols"] == ["istio", "h2"]
    assert (secret["name"], secret["sds_config"]["initial_fetch_timeout"]) == ("default", "0s")


def test_lightstep_speaks_http2_and_reads_its_token_from_a_file_beside_the_bootstrap() -> None:
    tracing = {"lightstep": {"address": "ls:8080", "accessToken": "t"}, "tlsSettings": {"mode": "SIMPLE"}}
    made = options({"tracing": tracing})

    context = clusters(made)["lightstep"]["transport_socket"]["typed_config"]["common_tls_context"]
    assert context["alpn_protocols"] == ["h2"]
    assert context["validation_context"] == {"system_root_certs": {}}  # no CA file was named
    assert lightstep_token_file(made) == "etc/istio/proxy/lightstep_access_token.txt"


def test_an_old_style_metrics_address_still_makes_cluster_and_sink() -> None:
    made = options({"envoyMetricsServiceAddress": "ms:9"})

    assert "envoy_metrics_service" in clusters(made)
    assert document(made)["stats_sinks"][0]["name"] == "envoy.stat_sinks.metrics_service"


def test_sotw_xds_switches_metadata_discovery_off_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    made = options(variables={"ISTIO_DELTA_XDS": "false", "PEER_METADATA_DISCOVERY": "true"})

    assert document(made)["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"
    assert [one["name"] for one in document(made)["bootstrap_extensions"]] == [
        "envoy.bootstrap.internal_listener"
    ]
    assert "disabling metadata discovery; not supported on SotW XDS" in capfd.readouterr().out


def test_load_statistics_that_are_no_json_end_the_agent() -> None:
    with pytest.raises(BootstrapError, match="failed to generate bootstrap config: LOAD_STATS_CONFIG_JSON"):
        options(variables={"ISTIO_META_LOAD_STATS_CONFIG_JSON": "{"})


@pytest.mark.parametrize(
    ("config", "want"),
    [
        ({"connectionSettings": {"globalDownstreamConnectionLimit": 5}}, 5),
        ({"proxyMetadata": {"ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS": "6"}}, 6),
        ({"runtimeValues": {"overload.global_downstream_max_connections": "7"}}, 7),
        ({"runtimeValues": {"overload.global_downstream_max_connections": "x"}}, 2147483647),
    ],
)
def test_the_limit_of_connections_comes_from_the_first_place_that_has_one(
    config: dict[str, Any], want: int
) -> None:
    assert max_downstream_connections(config) == want


def test_intervals_are_printed_in_seconds_and_an_eviction_that_does_not_fit_is_dropped(
    capfd: pytest.CaptureFixture[str],
) -> None:
    flush, eviction = "sidecar.istio.io/statsFlushInterval", "sidecar.istio.io/statsEvictionInterval"

    assert stats_intervals({flush: "1m30s"}) == {"stats_flush_interval": "90s"}
    assert stats_intervals({flush: "500ms", eviction: "2s"}) == {
        "stats_flush_interval": "0.500s",
        "stats_eviction_interval": "2s",
    }
    assert stats_intervals({eviction: "7s"}) == {}
    assert stats_intervals({flush: "soon"}) == {}
    out = capfd.readouterr().out
    assert "got 7s, expected a multiple of the flush interval 5s" in out
    assert "Failed to parse statsFlushInterval soon" in out


def test_dual_stack_follows_the_family_of_the_first_address() -> None:
    both = families(("2001:db8::1", "10.0.0.1"), dual_stack=True)

    assert (both.localhost, both.second_wildcard, both.dns_lookup_family) == ("::1", "0.0.0.0", "ALL")
    assert families(("spiffe", "2001:db8::1"), dual_stack=True).wildcard == "::"
    assert families(("unknown",), dual_stack=True).wildcard == "0.0.0.0"


def test_hot_restart_replaces_one_argument_by_those_of_an_epoch() -> None:
    made = options({"drainDuration": "20s"})
    restart = HotRestart(epoch=3, base_id=4711, parent_shutdown_s=60, socket_path="etc/istio/proxy/hr")

    arguments = envoy_arguments(made, config_file="etc/istio/proxy/envoy-rev3.json", hot_restart=restart)

    assert arguments[:19] == [
        *("-c", "etc/istio/proxy/envoy-rev3.json", "--restart-epoch", "3", "--drain-time-s", "20"),
        *("--drain-strategy", "immediate", "--parent-shutdown-time-s", "60"),
        *("--local-address-ip-version", "v4", "--file-flush-interval-msec", "1000"),
        *("--base-id", "4711", "--socket-path", "etc/istio/proxy/hr", "--socket-mode"),
    ]
    assert "--disable-hot-restart" not in arguments


def test_the_optional_arguments_come_in_the_reference_s_order() -> None:
    made = options(
        {"fileFlushInterval": "1.5s", "fileFlushMinSizeKb": 64, "concurrency": 3},
        {"ISTIO_ENVOY_ENABLE_CORE_DUMP": "true"},
        addresses=("2001:db8::1",),
        flags=ProxyFlags(proxy_log_level="info,warn", proxy_component_log_level="misc:error"),
    )
    made = msgspec.structs.replace(made, override='{"a":1}')

    arguments = envoy_arguments(made, config_file="x.json")

    assert arguments[6:] == [
        *("--local-address-ip-version", "v6", "--file-flush-interval-msec", "1500"),
        *("--disable-hot-restart", "--allow-unknown-static-fields", "--file-flush-min-size-kb", "64"),
        *("-l", "warn", "--component-log-level", "misc:error", "--skip-deprecated-logs"),
        *("--enable-core-dump", "--config-yaml", '{"a":1}', "--concurrency", "3"),
    ]


def test_a_component_level_with_two_colons_is_dropped_with_a_warning(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert log_levels("a:b:c,misc:error,info") == ("info", "misc:error")
    assert "a:b:c" in capfd.readouterr().out


def test_an_override_is_compact_json_with_the_host_s_address_in_it(tmp_path: Path) -> None:
    text = "z: 1\nadmin:\n  address: '$(HOST_IP):15000'\n  other: '[$(HOST_IP)]:1'\n"
    (tmp_path / "override.yaml").write_text(text, encoding="utf-8")

    assert override_text(text, "10.0.0.1") == (
        '{"admin":{"address":"10.0.0.1:15000","other":"10.0.0.1:1"},"z":1}'
    )
    assert override_text(text, "fd00::1") == (
        '{"admin":{"address":"[fd00::1]:15000","other":"[fd00::1]:1"},"z":1}'
    )
    made = options(variables={"ISTIO_BOOTSTRAP_OVERRIDE": "override.yaml"}, working_dir=tmp_path)
    assert made.override == '{"admin":{"address":":15000","other":":1"},"z":1}'


def test_an_override_that_cannot_be_read_is_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    assert read_override(NOWHERE / "x", "") is None
    assert "Failed to read bootstrap override: " in capfd.readouterr().out


def test_a_custom_template_s_parameters_are_the_documented_ones(tmp_path: Path) -> None:
    template = (
        "{{/* comment */}}{{ .config.ProxyAdminPort }} {{ .config.ProxyMetadata.KEY }}"
        " {{ toJSON .extraStatTags }} {{ .statsd }} {{- .dual_stack -}} {{ .nodeType | upper | quote }}"
        " {{ .extraStatTags }}"
    )
    (tmp_path / "t.json").write_text(template, encoding="utf-8")
    config = {
        "proxyMetadata": {"KEY": "value"},
        "extraStatTags": ["a", "b"],
        "statsdUdpAddress": "10.0.0.2:8125",
    }
    made = options(config, {"ISTIO_BOOTSTRAP": "t.json"}, working_dir=tmp_path)

    assert render(made).decode() == (
        '15000 value ["a","b"] {"address": "10.0.0.2", "port_value": 8125}false"SIDECAR" [a b]'
    )


PARAMETERS = tuple(
    name
    for line in (
        "config metadata meta_json_str runtime_flags nodeID nodeType cluster region zone sub_zone localhost",
        "additional_localhost wildcard additional_wildcard dns_lookup_family dual_stack xds_type",
        "metadata_discovery workload_identity_socket_file custom_file_path xds_root_cert discovery_address",
        "discovery_host pilot_grpc_address pilot_SAN outlier_log_path log_json load_stats_config_json_str",
        "enable_self_discovery metrics_localhost_access_only envoy_status_port envoy_prometheus_port",
        "secure_metrics_port secure_merged_metrics_port envoy_status_port_enable_proxy_protocol",
        "global_downstream_max_connections inclusionPrefix inclusionSuffix inclusionRegexps extraStatTags",
        "histogram_buckets stats_flush_interval stats_eviction_interval zipkin lightstep datadog statsd",
        "envoy_metrics_service_address envoy_accesslog_service_address lightstepToken tracing_tls",
        "envoy_metrics_service_tls envoy_metrics_service_tcp_keepalive envoy_accesslog_service_tls",
        "envoy_accesslog_service_tcp_keepalive envoy_metrics_stats_compression stackdriver",
        "stackdriverProjectID stackdriverDebug stackdriverMaxAnnotations stackdriverMaxAttributes",
        "stackdriverMaxEvents sts sts_port gcp_project_id gcp_project_number",
    )
    for name in line.split()
)


def rendered(template: str, config: dict[str, Any], folder: Path, platform: Platform = NO_CLOUD) -> str:
    (folder / "t.json").write_text(template, encoding="utf-8")
    made = options(config, {"ISTIO_BOOTSTRAP": "t.json"}, working_dir=folder, platform=platform)
    return render(made).decode()


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_of_the_reference_is_known(name: str, tmp_path: Path) -> None:
    assert rendered(f"x{{{{ .{name} }}}}", {}, tmp_path)


def test_a_parameter_without_a_value_prints_what_the_reference_prints(tmp_path: Path) -> None:
    assert rendered("{{ .zipkin }}{{ .tracing_tls }}", {}, tmp_path) == "<no value><no value>"


def test_services_come_with_their_tls_and_keepalive(tmp_path: Path) -> None:
    service = {"address": "ms:1", "tlsSettings": {"mode": "ISTIO_MUTUAL"}, "tcpKeepalive": {"probes": 3}}
    text = rendered(
        "{{ .envoy_metrics_service_tls }} {{ .envoy_metrics_service_tcp_keepalive }}",
        {"envoyMetricsService": service},
        tmp_path,
    )
    assert text.startswith('{"name":"envoy.transport_sockets.tls"')
    assert text.endswith(' {"tcp_keepalive":{"keepalive_probes":3}}')


def test_stackdriver_needs_a_google_project_and_is_a_parameter_alone(tmp_path: Path) -> None:
    config = {"tracing": {"stackdriver": {"debug": True, "maxNumberOfAttributes": 7}}}
    with pytest.raises(BootstrapError, match="unable to process Stackdriver tracer: missing GCP Project"):
        render(options(config))
    google = Platform(name="GCP", metadata={"gcp_project": "p"})
    template = (
        "{{ .stackdriver }} {{ .stackdriverProjectID }} {{ .stackdriverDebug }}"
        " {{ .stackdriverMaxAttributes }} {{ .stackdriverMaxEvents }} {{ .metadata.PlatformMetadata }}"
    )
    assert rendered(template, config, tmp_path, google) == "true p true 7 200 map[gcp_project:p]"
    assert "tracing" not in document(options(config, platform=google))


def test_a_proxy_config_among_the_metadata_must_be_an_object() -> None:
    with pytest.raises(BootstrapError, match="metadata member PROXY_CONFIG: expected an object, got 'x'"):
        options(variables={"ISTIO_META_PROXY_CONFIG": "x"})


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("1.5ms", "1"), ("0s", "0"), ("2s", "2000"), ("0.0159s", "15")]
)
def test_the_flush_interval_is_in_whole_milliseconds(text: str, milliseconds: str) -> None:
    arguments = envoy_arguments(options({"fileFlushInterval": text}), config_file="x")
    assert arguments[arguments.index("--file-flush-interval-msec") + 1] == milliseconds


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ if .dual_stack }}x{{ end }}", "template action {{ if .dual_stack }} is not supported"),
        ("{{ .no_such }}", "template parameter .no_such is not known"),
        ("{{ .cluster | sha256sum }}", "is not supported"),
    ],
)
def test_a_template_that_asks_for_more_is_refused(template: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(template, encoding="utf-8")
    made = options(flags=ProxyFlags(template_file="t.json"), working_dir=tmp_path)

    with pytest.raises(BootstrapError) as error:
        render(made)

    assert reason in str(error.value)


def test_a_template_that_is_not_there_ends_the_agent_with_the_reference_s_text() -> None:
    with pytest.raises(BootstrapError) as error:
        options(variables={"ISTIO_BOOTSTRAP": "gone.json"})

    assert str(error.value) == (
        "failed to initialize envoy agent: failed to generate bootstrap config: "
        "open gone.json: no such file or directory"
    )


@pytest.mark.parametrize("prefix", ["", "./", "/"])
def test_the_standard_template_of_the_image_is_built_in(prefix: str) -> None:
    flags = ProxyFlags(template_file=f"{prefix}var/lib/istio/envoy/envoy_bootstrap_tmpl.json")

    assert options(flags=flags).template is None
