"""What is wrong with the status port's settings ends the agent at once, in words; nothing was started."""

from pathlib import Path

import pytest

from tests.support.cli import run_agent
from tests.support.small_ca import Authority


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("ISTIO_KUBE_APP_PROBERS", "{", "failed to decode app prober err = "),
        ("ISTIO_KUBE_APP_PROBERS", '{"abc": {"tcpSocket": {"port": 1}}}', "invalid path, must be in form of"),
        (
            "ISTIO_KUBE_APP_PROBERS",
            '{"/app-health/a/livez": {"exec": {"command": ["true"]}}}',
            "invalid prober type, must be one of type httpGet, tcpSocket or gRPC",
        ),
        ("ISTIO_PROMETHEUS_ANNOTATIONS", '{"port": "15090"}', "target port 15090 is reserved for Istio"),
        ("ISTIO_PROMETHEUS_ANNOTATIONS", '{"port": "15020"}', "application port is the same as agent port"),
    ],
)
def test_a_wrong_value_ends_the_start(tmp_path: Path, variable: str, value: str, text: str) -> None:
    root = tmp_path / "var/run/secrets/istio/root-cert.pem"
    root.parent.mkdir(parents=True)
    root.write_text(Authority().root_pem)
    environment = {"CLOUD_PLATFORM": "none", "INSTANCE_IP": "127.0.0.1", variable: value}
    done = run_agent("proxy", "sidecar", cwd=tmp_path, environment=environment)
    assert done.returncode == 255
    assert f"Error: {text}" in done.stderr
    assert "\terror\t" in done.stdout
    assert text in done.stdout
    assert not list(tmp_path.rglob("envoy-rev*"))
