"""The bootstrap that real Envoys and a real istiod ran with, made again from the recorded environment."""

import json
from pathlib import Path

import pytest

from pilot_agent.bootstrap import BootstrapOptions, document, envoy_arguments
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import ProxyFlags, load
from tests.support.bootstrap_golden import differences

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings"


@pytest.mark.parametrize("role", ["sidecar", "router"])
def test_configuration_and_arguments_are_those_of_the_recorded_run(role: str, tmp_path: Path) -> None:
    golden = json.loads((RECORDINGS / f"{role}.envoy-rev.json").read_text(encoding="utf-8"))
    arguments = (RECORDINGS / f"{role}.envoy-args.txt").read_text(encoding="utf-8").split()
    options = _options(role, golden["node"], tmp_path)

    assert list(differences(golden, document(options))) == []
    assert envoy_arguments(options, config_file=arguments[2]) == arguments[1:]


def _options(role: str, node: dict[str, object], working_dir: Path) -> BootstrapOptions:
    lines = (RECORDINGS / f"{role}.envoy-env.txt").read_text(encoding="utf-8").splitlines()
    environment = Environment(dict(line.split("=", 1) for line in lines))
    metadata = node["metadata"]
    assert isinstance(metadata, dict)
    folder = working_dir / "etc/istio/pod"
    folder.mkdir(parents=True)
    for name in ("labels", "annotations"):
        if pairs := metadata.get(name.upper()):
            text = "".join(f"{key}={json.dumps(value)}\n" for key, value in pairs.items())
            (folder / name).write_text(text, encoding="utf-8")
    flags = ProxyFlags(role=role, domain="default.svc.cluster.local", proxy_component_log_level="misc:error")
    loaded = load(environment, flags, working_dir, read_interfaces=dict)
    return BootstrapOptions.build(environment, loaded, working_dir=working_dir)
