"""What the environment says about Wasm."""

import subprocess
import sys
from pathlib import Path

import pytest

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import ProxyFlags, load
from pilot_agent.wasm.options import WasmOptions


def built(**variables: str) -> tuple[WasmOptions, Environment]:
    environment = Environment(variables)
    loaded = load(environment, ProxyFlags())
    return WasmOptions.build(environment, loaded.proxy_config, loaded.node), environment


def test_defaults_are_the_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options, _ = built()
    assert options.enabled
    assert options.directory == str(tmp_path / "var/lib/istio/data")
    assert options.module_expiry_s == 24 * 3600
    assert options.purge_interval_s == 3600
    assert options.request_timeout_s == 15
    assert options.request_attempts == 5
    assert options.max_binary_bytes == 256 * 1024 * 1024
    assert options.insecure_registries == options.blocked_cidrs == ()


def test_every_variable_is_read() -> None:
    options, _ = built(
        ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION="false",
        WASM_INSECURE_REGISTRIES="a:5000, b ,,",
        WASM_MODULE_EXPIRY="10m",
        WASM_PURGE_INTERVAL="1m",
        WASM_HTTP_REQUEST_TIMEOUT="2s",
        WASM_HTTP_REQUEST_MAX_RETRIES="3",
        ISTIO_WASM_MAX_BINARY_SIZE_BYTES="1000",
        DOCKER_CONFIG="/docker",
        HOME="/home/x",
    )
    assert not options.enabled
    assert options.insecure_registries == ("a:5000", "b")
    assert (options.module_expiry_s, options.purge_interval_s) == (600, 60)
    assert (options.request_timeout_s, options.request_attempts) == (2, 3)
    assert options.max_binary_bytes == 1000
    assert options.docker_config_path == "/docker/config.json"
    assert built(HOME="/home/x")[0].docker_config_path == "/home/x/.docker/config.json"


def test_a_bad_range_is_skipped_with_a_warning() -> None:
    options, environment = built(BLOCKED_CIDRS_IN_WASM_FETCH="10.0.0.0/8,nonsense, 10.1.2.3/16 ,fd00::/8")
    assert options.blocked_cidrs == ("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")
    assert [warning for warning in environment.warnings if "nonsense" in warning]


def test_what_long_lived_processes_import_brings_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "import pilot_agent.wasm.ecds, pilot_agent.wasm.in_flight, pilot_agent.wasm.options\n"
        "import pilot_agent.wasm.work\n"
        "heavy = ('google.protobuf', 'ssl', 'hashlib', 'envoy', 'tarfile', 'concurrent')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
