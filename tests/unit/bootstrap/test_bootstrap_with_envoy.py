"""A real Envoy reads what is rendered, `--mode validate`."""

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilot_agent.bootstrap import (
    BootstrapOptions,
    HotRestart,
    Platform,
    envoy_arguments,
    lightstep_token_file,
    render,
)
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import ProxyFlags, load
from tests.support.bootstrap_golden import GoldenCase, golden_cases
from tests.support.real_envoy import envoy_path

pytestmark = pytest.mark.envoy

MUTUAL = {
    "mode": "MUTUAL",
    "clientCertificate": "/c",
    "privateKey": "/k",
    "caCertificates": "/ca",
    "subjectAltNames": ["a.b"],
}
ALL_SERVICES = {
    "tracing": {"zipkin": {"address": "zipkin:9411"}, "tlsSettings": {"mode": "SIMPLE", "sni": "z"}},
    "envoyMetricsService": {
        "address": "ms:15000",
        "tlsSettings": MUTUAL,
        "tcpKeepalive": {"probes": 3, "time": "10s", "interval": "10s"},
    },
    "envoyAccessLogService": {"address": "als:15000", "tlsSettings": {"mode": "ISTIO_MUTUAL"}},
    "statsdUdpAddress": "10.0.0.2:8125",
    "extraStatTags": ["a_tag"],
    "proxyStatsMatcher": {"inclusionRegexps": ["x.*"]},
    "runtimeValues": {"a.b": "true"},
    "connectionSettings": {"globalDownstreamConnectionLimit": 100},
    "fileFlushMinSizeKb": 64,
}
ANNOTATIONS = (
    'sidecar.istio.io/statsFlushInterval="90s"\n'
    'sidecar.istio.io/statsEvictionInterval="180s"\n'
    'sidecar.istio.io/statsHistogramBuckets="{\\"istio\\":[1,5.5]}"\n'
)
EVERYTHING = {
    "ENVOY_SECURE_METRICS_PORT": "15091",
    "ENVOY_SECURE_MERGED_METRICS_PORT": "15092",
    "ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL": "true",
    "ISTIO_META_ENABLE_SELF_DISCOVERY": "true",
    "ISTIO_META_LOAD_STATS_CONFIG_JSON": '{"api_type": "GRPC", "transport_api_version": "V3"}',
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true",
    "ISTIO_DUAL_STACK": "true",
    "COMPLIANCE_POLICY": "fips-140-2",
    "HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED": "false",
    "ISTIO_META_POD_PORTS": '[{"containerPort":9080}]',
}


def made(
    working_dir: Path,
    config: dict[str, Any],
    variables: dict[str, str],
    *,
    external_sds: bool = False,
    flags: ProxyFlags | None = None,
) -> BootstrapOptions:
    folder = working_dir / "etc/istio/pod"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").write_text(ANNOTATIONS, encoding="utf-8")
    environment = Environment({"PROXY_CONFIG": json.dumps(config)} | variables)
    addresses = ("10.0.0.7", "2001:db8::7")
    loaded = load(environment, flags or ProxyFlags(), working_dir, read_interfaces=lambda: {"e": addresses})
    return BootstrapOptions.build(
        environment,
        loaded,
        working_dir=working_dir,
        platform=Platform(name="none"),
        credential_socket=False,
        external_sds=external_sds,
    )


def accepted(data: bytes, arguments: list[str], working_dir: Path) -> None:
    """Assert that Envoy would start with this file and these arguments."""
    (working_dir / "bootstrap.json").write_bytes(data)
    command = [str(envoy_path()), *arguments, "--mode", "validate"]
    done = subprocess.run(command, cwd=working_dir, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout


def test_envoy_accepts_a_document_with_every_section_in_it(tmp_path: Path) -> None:
    flags = ProxyFlags(log_as_json=True, outlier_log_path="/dev/stdout")
    options = made(tmp_path, ALL_SERVICES, EVERYTHING, external_sds=True, flags=flags)

    accepted(render(options), envoy_arguments(options, config_file="bootstrap.json"), tmp_path)


@pytest.mark.parametrize("kind", ["datadog", "none"])
def test_envoy_accepts_each_tracer_that_it_still_has(kind: str, tmp_path: Path) -> None:
    tracing = {} if kind == "none" else {"tracing": {kind: {"address": "t:1"}}}
    options = made(tmp_path, tracing, {})

    accepted(render(options), envoy_arguments(options, config_file="bootstrap.json"), tmp_path)


def test_envoy_accepts_a_generation_and_the_arguments_of_a_hot_restart(tmp_path: Path) -> None:
    (tmp_path / "etc/istio/proxy").mkdir(parents=True)
    options = made(tmp_path, {"concurrency": 1}, {})
    options = msgspec.structs.replace(options, override='{"stats_flush_interval":"30s"}')
    restart = HotRestart(
        epoch=0, base_id=1_987_654, parent_shutdown_s=60, socket_path=str(tmp_path / "etc/istio/proxy/hr")
    )
    arguments = envoy_arguments(options, config_file="bootstrap.json", hot_restart=restart)

    accepted(render(options, generation=2), arguments, tmp_path)


_OF_ISTIO_ALONE = ("istio.workload.BootstrapExtension", "envoy.tracers.lightstep")
_RECORDED = [case for case in golden_cases() if isinstance(case.bootstrap, dict)]


@pytest.mark.parametrize("case", _RECORDED, ids=lambda case: case.name)
def test_envoy_accepts_the_documents_of_recorded_runs(case: GoldenCase, tmp_path: Path) -> None:
    options = case.options(tmp_path)
    if options.template is not None:
        pytest.skip("a template of the case's own, which is no configuration of Envoy's")
    data = render(options)
    if any(name.encode() in data for name in _OF_ISTIO_ALONE):
        document = msgspec.json.decode(data)
        document.pop("tracing", None)
        document["bootstrap_extensions"] = document["bootstrap_extensions"][-1:]
        data = msgspec.json.encode(document)  # without what the Envoy project's own build lacks
    arguments = envoy_arguments(options, config_file="bootstrap.json")

    accepted(data, arguments, tmp_path)


def test_the_token_file_of_lightstep_is_below_the_directory_of_the_bootstrap(tmp_path: Path) -> None:
    options = made(tmp_path, {"configPath": "./cfg/../deep/"}, {})

    assert lightstep_token_file(options) == "deep/lightstep_access_token.txt"


def test_rendering_takes_15_ms_of_cpu_at_most(tmp_path: Path) -> None:
    options = made(tmp_path, ALL_SERVICES, EVERYTHING)
    took_s = []
    for _ in range(9):
        began_s = time.process_time()
        render(options)
        took_s.append(time.process_time() - began_s)
    assert statistics.median(took_s) <= 0.015
