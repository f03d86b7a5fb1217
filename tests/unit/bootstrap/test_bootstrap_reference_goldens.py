"""The reference's own golden files, where the variable PILOT_AGENT_REFERENCE_GOLDENS names a folder of them.

They are the reference's and not copied here. A case is a pair: `NAME.case.json` (options, environment and
ProxyConfig of one of the reference's unit tests; its member `golden` names the other file) and the bootstrap
that the test expects.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilot_agent.bootstrap import BootstrapOptions, Platform, document
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Loaded, Node, ProxyConfig, ProxyFlags
from tests.support.bootstrap_golden import differences

VARIABLE = "PILOT_AGENT_REFERENCE_GOLDENS"
CASES = sorted(Path(os.environ[VARIABLE]).glob("*.case.json")) if VARIABLE in os.environ else []


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder of golden files")
def test_the_named_folder_has_cases() -> None:
    assert CASES


@pytest.mark.skipif(not CASES, reason=f"no golden files of the reference, see {VARIABLE}")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name.removesuffix(".case.json"))
def test_the_document_is_the_reference_s(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    golden = json.loads((path.parent / case["golden"]).read_text(encoding="utf-8"))

    got = _masked(document(_options(case)), case)

    assert list(differences(golden, got)) == []


def _options(case: Mapping[str, Any]) -> BootstrapOptions:
    fixed = case["options"]
    role, _, pod, domain = fixed["node_id"].split("~")
    config = case["proxy_config"] | {"configPath": "/cfg", "customConfigFile": "envoy_bootstrap.json"}
    loaded = Loaded(
        proxy_config=ProxyConfig.from_document({k: v for k, v in config.items() if v != "NONE"}),
        node=Node(role=role, ip_addresses=tuple(fixed["instance_ips"]), id=pod, domain=domain),
        labels=None,
        annotations=case["annotations"] or None,
        flags=ProxyFlags(role=role, outlier_log_path=fixed["outlier_log_path"], sts_port=fixed["sts_port"]),
    )
    options = BootstrapOptions.build(
        Environment(_variables(case)),
        loaded,
        platform=Platform(name="none"),
        istio_version=fixed["istio_version"],
        credential_socket=False,
    )
    agent = msgspec.structs.replace(options.agent, pilot_san=tuple(fixed["pilot_san"]))
    return msgspec.structs.replace(options, node_id=fixed["node_id"], agent=agent)


def _variables(case: Mapping[str, Any]) -> dict[str, str]:
    fixed = case["options"]
    listed: dict[str, str] = dict(entry.split("=", 1) for entry in case["env_list_order"])
    own: dict[str, str] = case["env"]
    return (
        listed
        | own
        | {
            "COMPLIANCE_POLICY": fixed["compliance_policy"],
            "ENVOY_SECURE_METRICS_PORT": str(fixed["envoy_secure_metrics_port"]),
            "ENVOY_SECURE_MERGED_METRICS_PORT": str(fixed["envoy_secure_merged_metrics_port"]),
            "ENVOY_SKIP_DEPRECATED_LOGS": "false",
            "WORKLOAD_IDENTITY_SOCKET_FILE": fixed["workload_identity_socket_file"],
        }
    )


def _masked(got: dict[str, Any], case: Mapping[str, Any]) -> Any:
    """Put the values that the reference's test fixes in the place of ours."""
    name = case["proxycfg"].removesuffix(".proxycfg")
    metadata = dict(got["node"]["metadata"])
    metadata["PROXY_CONFIG"] = metadata["PROXY_CONFIG"] | {"configPath": f"/tmp/bootstrap/{name}"}
    metadata["PILOT_SAN"] = case["options"]["pilot_san"]
    got["node"] = got["node"] | {"metadata": metadata}
    text = json.dumps(got).replace("/cfg/XDS", "/tmp/XDS").replace("/cfg/lightstep", "/test-path/lightstep")
    return json.loads(text)
