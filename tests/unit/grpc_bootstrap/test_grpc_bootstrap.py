"""The bootstrap file of proxyless gRPC: what stands in it, where, and how it gets there."""

import json
import stat
from pathlib import Path

import pytest

from pilot_agent.environment import Environment
from pilot_agent.grpc_bootstrap import GrpcBootstrapError, GrpcBootstrapOptions
from pilot_agent.grpc_bootstrap.document import document
from pilot_agent.health.extra_checks import GrpcBootstrapCheck
from pilot_agent.health.options import grpc_bootstrap_path

NODE = "sidecar~10.0.0.1~app-1.default~default.svc.cluster.local"


def rendered(**changes: object) -> dict[str, object]:
    settings = {
        "socket_path": "./etc/istio/proxy/XDS",
        "node_id": NODE,
        "metadata": {"NAMESPACE": "default", "CLUSTER_ID": "Kubernetes"},
        "locality": {},
        "certificates": "",
    }
    return document(**settings | changes)  # type: ignore[arg-type]


def test_it_is_what_the_reference_writes() -> None:
    """Source: the reference's gRPC bootstrap."""
    found = rendered()
    assert found == {
        "xds_servers": [
            {
                "server_uri": "unix:///etc/istio/proxy/XDS",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": NODE,
            "metadata": {"CLUSTER_ID": "Kubernetes", "GENERATOR": "grpc", "NAMESPACE": "default"},
            "locality": {},
            "UserAgentVersionType": None,
        },
        "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
    }
    node = found["node"]
    assert isinstance(node, dict)
    assert list(node) == ["id", "metadata", "locality", "UserAgentVersionType"]


def test_a_known_locality_stands_there_and_a_generator_of_the_pod_is_overwritten() -> None:
    node = rendered(locality={"region": "r", "zone": "z", "sub_zone": ""}, metadata={"GENERATOR": "x"})[
        "node"
    ]
    assert isinstance(node, dict)
    assert node["locality"] == {"region": "r", "zone": "z"}
    assert node["metadata"] == {"GENERATOR": "grpc"}


def test_an_absolute_socket_gives_four_slashes() -> None:
    servers = rendered(socket_path="/etc/istio/proxy/XDS")["xds_servers"]
    assert isinstance(servers, list)
    assert servers[0]["server_uri"] == "unix:////etc/istio/proxy/XDS"


@pytest.mark.parametrize(
    ("directory", "key"),
    [("/var/lib/istio/data", "/var/lib/istio/data/key.pem"), ("./out/", "out/key.pem")],
)
def test_output_certs_become_a_provider_that_watches_the_files(directory: str, key: str) -> None:
    providers = rendered(certificates=directory)["certificate_providers"]
    assert isinstance(providers, dict)
    config = providers["default"]["config"]
    assert providers["default"]["plugin_name"] == "file_watcher"
    assert config["private_key_file"] == key
    assert config["certificate_file"] == key.replace("key.pem", "cert-chain.pem")
    assert config["ca_certificate_file"] == key.replace("key.pem", "root-cert.pem")
    assert config["refresh_interval"] == "900s"


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({}, "./etc/istio/proxy/grpc-bootstrap.json"),
        ({"GRPC_XDS_BOOTSTRAP": ""}, ""),
        ({"GRPC_XDS_BOOTSTRAP": "/x/y.json"}, "/x/y.json"),
    ],
)
def test_where_it_is_comes_from_the_environment(variables: dict[str, str], path: str) -> None:
    assert grpc_bootstrap_path(Environment(variables)) == path


def test_it_is_written_for_all_to_read_into_a_directory_for_the_agent(tmp_path: Path) -> None:
    target = tmp_path / "proxy" / "grpc-bootstrap.json"
    options = GrpcBootstrapOptions(path=str(target), content=b'{"a": 1}')
    options.write()
    options.write()  # over the one of an earlier life
    assert json.loads(target.read_bytes()) == {"a": 1}
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert [path.name for path in target.parent.iterdir()] == ["grpc-bootstrap.json"]


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    GrpcBootstrapOptions(content=b"{}").write()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told_with_its_path_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "grpc-bootstrap.json"
    text = f"^failed generating gRPC XDS bootstrap: failed writing to {target}: file exists$"
    with pytest.raises(GrpcBootstrapError, match=text):
        GrpcBootstrapOptions(path=str(target), content=b"{}").write()


def test_the_readiness_check_takes_the_file_and_waits_for_its_certificates(tmp_path: Path) -> None:
    target = tmp_path / "grpc-bootstrap.json"
    content = json.dumps(rendered(certificates=str(tmp_path))).encode()
    GrpcBootstrapOptions(path=str(target), content=content).write()
    check = GrpcBootstrapCheck(str(target))
    assert check.refusal() == f"{tmp_path}/cert-chain.pem does not exist"
    for name in ("key.pem", "cert-chain.pem", "root-cert.pem"):
        (tmp_path / name).write_text("x")
    assert check.refusal() is None
