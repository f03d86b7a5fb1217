"""The gRPC bootstrap file as a readiness check."""

import json
from pathlib import Path

from pilot_agent.health.extra_checks import GrpcBootstrapCheck


def test_the_bootstrap_file_must_be_there_once(tmp_path: Path) -> None:
    path = tmp_path / "grpc-bootstrap.json"
    check = GrpcBootstrapCheck(str(path))
    assert check.refusal() == f"failed loading {path}: open {path}: no such file or directory"
    path.write_text("{")
    assert (check.refusal() or "").startswith(f"failed loading {path}: ")
    path.write_text("[]")
    assert (check.refusal() or "").startswith(f"failed loading {path}: ")
    path.write_text("{}")
    assert check.refusal() is None
    path.unlink()
    assert check.refusal() is None


def test_the_certificate_files_that_it_names_must_exist_at_each_check(tmp_path: Path) -> None:
    path, files = tmp_path / "b.json", {}
    for name in ("certificate_file", "private_key_file", "ca_certificate_file"):
        files[name] = str(tmp_path / name)
        Path(files[name]).touch()
    provider = {"plugin_name": "file_watcher", "config": files}
    path.write_text(json.dumps({"certificate_providers": {"default": provider}}))
    check = GrpcBootstrapCheck(str(path))
    assert check.refusal() is None
    Path(files["private_key_file"]).unlink()
    assert check.refusal() == f"{files['private_key_file']} does not exist"


def test_beside_an_envoy_files_in_a_place_that_cannot_be_written_are_no_reason(tmp_path: Path) -> None:
    path = tmp_path / "grpc-bootstrap.json"
    (tmp_path / "output").write_text("no directory")
    chain = tmp_path / "output/cert-chain.pem"
    config = {"certificate_file": str(chain)}
    provider = {"plugin_name": "file_watcher", "config": config}
    path.write_text(json.dumps({"certificate_providers": {"default": provider}}))

    assert GrpcBootstrapCheck(str(path), beside_envoy=True).refusal() is None
    assert GrpcBootstrapCheck(str(path)).refusal() == f"{chain} does not exist"
