"""The service of a virtual machine, run under its unit's restrictions."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import pod as pods
from tests.support.pod import Container
from tests.support.virtual_machine import ISTIO_PROXY, VM, VirtualMachine, unit, virtual_machine
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.envoy, pytest.mark.root]


def wait_ready(machine: VirtualMachine, service: Container) -> None:
    def is_ready() -> bool:
        assert service.is_running(), machine.log() + machine.log("istio.err.log") + service.log()
        return service.pod.node.probe(15021, "/healthz/ready", 1.0, host=pods.POD_IP) == 200

    wait_for(is_ready, within_s=15.0, what="the machine being ready")


def users(service: Container) -> set[tuple[int, int]]:
    return {(process.uids().real, process.gids().real) for process in service.processes()}


def test_the_service_is_up_watched_and_ends_within_its_time(workdir: Path) -> None:
    with virtual_machine(workdir) as machine:
        service = machine.start("run")
        machine.wait_told("READY=1")
        machine.wait_told("WATCHDOG=1")
        wait_ready(machine, service)
        assert users(service) == {(ISTIO_PROXY, ISTIO_PROXY)}
        assert "FLAG: " in machine.log()
        assert "SECRET_TTL" not in machine.log("istio.err.log")
        service.signal(signal.SIGTERM)
        machine.wait_told("STOPPING=1")
        assert service.wait(float(unit()["TimeoutStopSec"])) == 0


def test_root_of_a_tproxy_machine_carries_the_group_that_the_capture_spares(workdir: Path) -> None:
    with virtual_machine(workdir) as machine:
        service = machine.start("run", environment={"ISTIO_INBOUND_INTERCEPTION_MODE": "TPROXY"})
        machine.wait_told("READY=1")
        wait_for(lambda: "envoy" in {one.name() for one in service.processes()}, what="Envoy")
        assert users(service) == {(0, ISTIO_PROXY)}


def test_the_unit_is_what_systemd_understands(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("wants systemd-analyze")
    text = (VM / "istio.service").read_text().replace("/usr/local/bin/istio-start.sh", "/bin/true")
    (tmp_path / "istio.service").write_text(text)
    seen = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "istio.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in seen.stderr.splitlines() if "istio.service" in line] == []
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=50", str(tmp_path / "istio.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" not in judged.stderr:  # before systemd 250
        assert judged.returncode == 0, judged.stdout[-200:]  # exposure above 5.0 of 10
