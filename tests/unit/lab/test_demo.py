"""The demo's own parts: what it checks first, what it counts as failed, what it shows."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.demo import layout, preflight
from lab.demo.http import Load
from lab.demo.show import Progress, StepFailedError, table
from lab.demo.waiting import until
from lab.mesh import load_mesh
from tests.support.real_envoy import envoy_path, free_ports
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[3]


def all_ports(shift: int = 0) -> dict[int, str]:
    mesh = load_mesh().with_ports(lambda port: port + shift)
    return dict(
        layout.all_ports(mesh, layout.ISTIOD_PORT + shift, layout.router(shift), layout.sidecar(shift))
    )


def run_demo(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `bin/demo --once` on ports that hardly anybody uses, with nothing in its environment but this."""
    return subprocess.run(
        [str(ROOT / "bin" / "demo"), "--once", "--port-shift", "2000"],
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_two_parts_of_the_demo_want_the_same_port() -> None:
    parts = 3 + 2 * 6 + 2 * 4  # control plane, gateway, outbound; applications with inbound; two agents
    assert len(all_ports()) == parts
    assert {port + 1000 for port in all_ports()} == set(all_ports(1000))


@pytest.mark.envoy
def test_nothing_is_said_when_all_is_well_and_a_taken_port_is_one_line() -> None:
    envoy_path()
    free, other = free_ports(2)
    assert list(preflight.complaints({free: "gateway"})) == []
    with socket.create_server(("127.0.0.1", free)):
        (line,) = preflight.complaints({free: "gateway", other: "other"})
    assert f"port {free} (gateway) taken" in line
    assert "\n" not in line


def test_a_port_taken_on_all_addresses_counts_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        assert any(f"port {port} (x) taken" in line for line in preflight.complaints({port: "x"}))


@pytest.mark.parametrize("port", [-920, 0, 65_536, 76_090])
def test_a_port_that_does_not_exist_is_not_called_taken(port: int) -> None:
    (line,) = preflight.complaints({port: "x", 8080: "gateway"})
    assert line == f"port {port} does not exist: take a smaller --port-shift"


def test_a_missing_envoy_ends_the_demo_with_one_line_before_anything_starts(tmp_path: Path) -> None:
    done = run_demo({"DEMO_PYTHON": sys.executable, "ENVOY": str(tmp_path / "none")})
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"ENVOY={tmp_path}/none is no program that can be run" in done.stderr


def test_a_python_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    python.chmod(0o755)
    done = run_demo({"DEMO_PYTHON": str(python)})
    assert done.returncode == 1
    assert done.stderr == "bin/demo: Python 3.11 or newer is needed; DEMO_PYTHON is Python 3.9.2\n"


class _Flaky(BaseHTTPRequestHandler):
    """Every fourth answer is a 503, every fifth connection ends without one."""

    protocol_version = "HTTP/1.1"
    served = 0

    def do_GET(self) -> None:
        type(self).served += 1
        if self.served % 5 == 0:
            self.close_connection = True
            return
        self.send_response(503 if self.served % 4 == 0 else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def flaky_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Flaky)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_the_load_counts_every_answer_that_is_no_200_and_every_one_that_is_missing(flaky_port: int) -> None:
    with Load(flaky_port, "/", threads=2, per_second=200) as load:
        wait_for(lambda: load.seen().sent >= 60, what="60 requests")
    seen = load.seen()
    lost = [one for one in seen.failures if "503" not in one]
    assert seen.sent / 8 <= len(lost) <= seen.sent / 3
    assert len(seen.failures) > len(lost) > 0


def test_the_load_survives_a_server_that_is_not_there() -> None:
    (port,) = free_ports(1)
    with Load(port, "/", threads=2, per_second=200) as load:
        wait_for(lambda: load.seen().sent >= 10, what="ten failures")
    assert len(load.seen().failures) == load.seen().sent
    assert "refused" in load.seen().failures[0]


def test_a_step_that_does_not_hold_is_told_and_the_next_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(total=2)
    with progress.step("the first") as notes:
        notes.append("seen before")
        raise StepFailedError("got=1 expected=0")
    with progress.step("the second"):
        pass
    assert progress.failed == ["the first"]
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["[ 1/2] the first …", "seen before", "FAILED: got=1 expected=0"]
    assert lines[3].startswith("FAILED, ")
    assert lines[5].startswith("ok, ")


def test_waiting_tells_what_it_saw_last() -> None:
    def look() -> bool:
        raise OSError("connection refused")

    with pytest.raises(StepFailedError, match=r"ready: not within 0\.05 s; last error: connection refused"):
        until(look, what="ready", within_s=0.05)


def test_numbers_stand_to_the_right() -> None:
    assert table(["actor", "ms"], [("cert", 5), ("sds", 12)]).splitlines() == [
        "actor  ms",
        "─────  ──",
        "cert    5",
        "sds    12",
    ]


def test_each_agent_gets_its_own_directory_and_ports_and_the_injectors_environment() -> None:
    router, sidecar = layout.router(), layout.sidecar()
    assert router.directory != sidecar.directory != layout.sidecar(1000).directory
    environment = sidecar.environment(envoy=Path("/envoy"), istiod_port=15012, path="/bin")
    assert environment["SECRET_TTL"] == f"{layout.SIDECAR_CERTIFICATE_S}s"
    assert environment["ENVOY_STATUS_PORT"] == "15021"
    assert '"proxyAdminPort": 15000' in environment["PROXY_CONFIG"]
