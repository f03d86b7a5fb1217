"""What an Envoy is given: arguments, files, and a check by Envoy itself. Small scripts stand in for Envoy."""

import os
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from pilot_agent.bootstrap import BootstrapOptions
from pilot_agent.bootstrap.platform import UNKNOWN
from pilot_agent.environment import Environment
from pilot_agent.envoy import EnvoyOptions, validation
from pilot_agent.envoy.launch import Launchpad, process_arguments, recognized
from pilot_agent.envoy.model import Generation, Phase, Prepared
from pilot_agent.envoy.shared_files import SharedFiles
from pilot_agent.proxyconfig import Loaded, Node, ProxyConfig, ProxyFlags

NODE = Node(role="sidecar", ip_addresses=("10.0.0.1",), id="pod.ns", domain="d")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SharedFiles, "heal", lambda *_: "")  # no Envoy has made shared memory here
    return tmp_path


def launchpad(config: ProxyConfig | None = None, **variables: str) -> Launchpad:
    config = config or ProxyConfig()
    environment = Environment(variables)
    loaded = Loaded(proxy_config=config, node=NODE, labels=None, annotations=None, flags=ProxyFlags())
    options = EnvoyOptions.build(environment, config, NODE)
    bootstrap = BootstrapOptions.build(environment, loaded, platform=UNKNOWN, credential_socket=False)
    return Launchpad(options, bootstrap)


def wanted(generation: int = 0, epoch: int = 0, base_id: int = 0, admin_port: int = 15000) -> Generation:
    return Generation(
        generation=generation,
        epoch=epoch,
        base_id=base_id,
        admin_port=admin_port,
        phase=Phase.PREPARING,
        replaces=generation - 1,
    )


def filled(of: Generation, done: Prepared) -> Generation:
    return replace(of, base_id=done.base_id, admin_port=done.admin_port, bootstrap_path=done.bootstrap_path)


def generation_named(path: str) -> str | None:
    """Return the generation that a bootstrap names to the agent's xDS server."""
    services = msgspec.json.decode(Path(path).read_bytes())["dynamic_resources"]["ads_config"][
        "grpc_services"
    ]
    metadata = services[0].get("initial_metadata", [])
    return next((each["value"] for each in metadata if each["key"] == "x-envoy-generation"), None)


def test_under_policy_sds_file_and_arguments_are_the_reference_s(folder: Path) -> None:
    pad = launchpad(CERT_ROTATION_POLICY="sds")
    done = pad.prepare(wanted(), validate=False)
    assert done == Prepared(generation=0, admin_port=15000, bootstrap_path="etc/istio/proxy/envoy-rev.json")
    assert generation_named(done.bootstrap_path) is None
    launch = pad.launch(filled(wanted(), done))
    assert " ".join(launch.argv) == (
        "/usr/local/bin/envoy -c etc/istio/proxy/envoy-rev.json --drain-time-s 45 --drain-strategy immediate "
        "--local-address-ip-version v4 --file-flush-interval-msec 1000 --disable-hot-restart "
        "--allow-unknown-static-fields -l warning --skip-deprecated-logs"
    )


def test_under_policy_hot_restart_each_generation_has_a_file_and_names_itself(folder: Path) -> None:
    pad = launchpad()
    first = pad.prepare(wanted(), validate=False)
    assert first.bootstrap_path == "etc/istio/proxy/envoy-rev0.json"
    assert generation_named("etc/istio/proxy/envoy-rev.json") == "0"

    second = wanted(generation=1, epoch=1, base_id=first.base_id)
    done = pad.prepare(second, validate=False)
    assert (done.base_id, done.bootstrap_path) == (first.base_id, "etc/istio/proxy/envoy-rev1.json")
    assert generation_named("etc/istio/proxy/envoy-rev.json") == "1"
    argv = " ".join(pad.launch(filled(second, done)).argv)
    assert "-c etc/istio/proxy/envoy-rev1.json --restart-epoch 1 " in argv
    assert "--parent-shutdown-time-s 60 " in argv
    assert f"--base-id {first.base_id} --socket-path etc/istio/proxy/hr --socket-mode 600 " in argv
    assert "--disable-hot-restart" not in argv


def test_an_overlapping_generation_has_its_own_base_id_and_a_free_admin_port(folder: Path) -> None:
    pad = launchpad()
    first = pad.prepare(wanted(), validate=False)
    done = pad.prepare(wanted(generation=2, admin_port=0), validate=False)
    assert done.base_id not in (0, first.base_id)
    assert done.admin_port not in (0, 15000)
    document = msgspec.json.decode(Path(done.bootstrap_path).read_bytes())
    assert document["admin"]["address"]["socket_address"]["port_value"] == done.admin_port


def test_a_custom_configuration_is_used_as_it_is_and_never_removed(folder: Path) -> None:
    Path("mine.json").write_text("{}")
    pad = launchpad(ProxyConfig(custom_config_file="mine.json"))
    assert not pad.hot_restart
    done = pad.prepare(wanted(), validate=False)
    assert (done.bootstrap_path, done.refusal) == ("mine.json", "")
    pad.clear(filled(wanted(), done), base_id_is_free=False)
    assert Path("mine.json").exists()
    assert not Path("etc").exists()


def test_a_custom_configuration_cannot_overlap_with_itself(folder: Path) -> None:
    pad = launchpad(ProxyConfig(custom_config_file="mine.json"), CERT_ROTATION_POLICY="hot-restart")
    assert "two Envoys cannot share it" in pad.prepare(wanted(2, admin_port=0), validate=False).refusal


def test_a_lightstep_token_is_put_where_the_bootstrap_says(folder: Path) -> None:
    tracing = {"lightstep": {"address": "collector:443", "accessToken": "secret"}}
    launchpad(ProxyConfig(document={"tracing": tracing})).prepare(wanted(), validate=False)
    token = Path("etc/istio/proxy/lightstep_access_token.txt")
    assert token.read_text() == "secret"
    assert token.stat().st_mode & 0o777 == 0o600


def test_after_the_end_nothing_is_left(folder: Path) -> None:
    pad = launchpad()
    done = pad.prepare(wanted(), validate=False)
    pad.clear(filled(wanted(), done), base_id_is_free=True)
    assert list(Path("etc/istio/proxy").iterdir()) == []


def test_a_bootstrap_that_could_not_be_removed_goes_with_the_next(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pad = launchpad()
    first, second = (pad.prepare(wanted(number), validate=False) for number in (0, 1))
    kept = Path(first.bootstrap_path)
    kept.unlink()
    kept.mkdir()  # which cannot be removed as a file, as on a disk that is read-only
    pad.clear(filled(wanted(0), first), base_id_is_free=False)
    assert capfd.readouterr().out.count(f"failed to delete config file {kept}") == 1
    kept.rmdir()
    kept.write_text("{}")
    pad.clear(filled(wanted(1), second), base_id_is_free=True)
    assert not kept.exists()


def test_what_an_earlier_agent_left_is_removed_at_the_start(folder: Path) -> None:
    launchpad().prepare(wanted(), validate=False)  # and killed
    pad = launchpad()
    pad.remove_remains()
    assert [path.name for path in Path("etc/istio/proxy").iterdir()] == ["envoy-rev.json"]
    assert pad.prepare(wanted(), validate=False).refusal == ""  # the dangling link is replaced


def test_an_unwritable_place_is_a_refusal_with_the_reference_s_words(folder: Path) -> None:
    Path("etc").write_text("no directory")
    refusal = launchpad().prepare(wanted(), validate=False).refusal
    assert refusal.startswith("failed to initialize envoy agent: failed to generate bootstrap config: ")


def test_envoy_s_own_no_is_the_refusal(folder: Path) -> None:
    script(folder, 'echo "$*" > said; echo "unknown field: x"; exit 1')
    pad = launchpad(ProxyConfig(binary_path="./envoy"))
    first = pad.prepare(wanted(), validate=False)
    refusal = pad.prepare(wanted(generation=1, epoch=1, base_id=first.base_id), validate=True).refusal
    assert refusal == "envoy --mode validate ended with 1: unknown field: x"
    assert Path("said").read_text().endswith("--mode validate\n")


# Validation


def script(folder: Path, body: str) -> str:
    path = folder / "envoy"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_yes_is_no_refusal(folder: Path) -> None:
    assert validation.refusal([script(folder, "exit 0")], os.environ, timeout_s=10) == ""


def test_a_validation_that_hangs_is_a_refusal(folder: Path) -> None:
    hanging = script(folder, "exec sleep 60")
    assert (
        validation.refusal([hanging], os.environ, timeout_s=0.2)
        == "envoy --mode validate took longer than 0.2s"
    )


def test_a_missing_binary_is_a_refusal(folder: Path) -> None:
    refusal = validation.refusal(["./no-envoy"], os.environ, timeout_s=1)
    assert refusal == "envoy --mode validate: ./no-envoy: No such file or directory"


# An Envoy that no notebook knows


def test_a_generation_is_recognized_by_its_command_line(folder: Path) -> None:
    pad = launchpad()
    made = pad.prepare(wanted(), validate=False)
    hot = wanted(generation=1, epoch=1, base_id=made.base_id)
    hot = filled(hot, pad.prepare(hot, validate=False))
    found = recognized(1, 77, 5.5, pad.launch(hot).argv, 15000)
    assert found == replace(hot, phase=Phase.INITIALIZING, pid=77, create_time=5.5, replaces=-1)


def test_a_foreign_configuration_is_not_recognized_as_a_file_to_remove() -> None:
    found = recognized(0, 77, 5.5, ("envoy", "-c", "/etc/mine.json", "--disable-hot-restart"), 15000)
    assert (found.bootstrap_path, found.base_id, found.epoch) == ("", 0, 0)


def test_the_command_line_of_a_process_is_read_from_proc() -> None:
    assert process_arguments(os.getpid())[0]
    assert process_arguments(2**22 + 1) == ()
