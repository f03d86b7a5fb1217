"""Injected pods that differ most, run as Kubernetes runs them; `tox run -e pods` takes all of them."""

from pathlib import Path

import pytest

from tests.support.pod_checks import lives_and_dies_as_kubernetes_wants

pytestmark = [pytest.mark.envoy, pytest.mark.root]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sidecar-native", id="native sidecar with a preStop hook"),
        pytest.param("sidecar-classic-full", id="postStart hook, dual stack, and an end at zero connections"),
        pytest.param("sidecar-tproxy", id="root with one capability"),
        pytest.param("gateway-api", id="gateway whose probes wait a second"),
    ],
)
def test_the_injected_proxy_lives_and_dies_as_kubernetes_wants(name: str, workdir: Path) -> None:
    lives_and_dies_as_kubernetes_wants(name, workdir)
