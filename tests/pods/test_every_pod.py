"""Every rendered workload with its own argv, environ and security context, from its start to its end."""

from pathlib import Path

import pytest

from tests.support.pod import pod_names
from tests.support.pod_checks import lives_and_dies_as_kubernetes_wants

pytestmark = [pytest.mark.envoy, pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("name", pod_names())
def test_the_injected_proxy_lives_and_dies_as_kubernetes_wants(name: str, workdir: Path) -> None:
    lives_and_dies_as_kubernetes_wants(name, workdir)
