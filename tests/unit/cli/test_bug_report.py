"""`bug-report` against a real status port's answers and a fake Envoy, with secrets planted in all of them."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import run_agent
from tests.support.http_peer import HttpPeer, closed_port, reply
from tests.unit.cli.test_redaction import JWT, KEY, WORD

PLANTED = json.dumps({"ready": True, "password": WORD, "text": f"{KEY} {JWT}"}).encode()


def answer(request: bytes) -> bytes:
    target = request.split(b" ")[1]
    if target.startswith(b"/healthz"):
        return reply("503 Service Unavailable")
    if target.startswith((b"/memory", b"/debug/ndsz")):
        return reply("404 Not Found", b"{}")
    if target.startswith((b"/clusters", b"/debug/logs")):
        return reply("200 OK", f"a line\nAuthorization: Bearer {WORD}\n{KEY}\nlast line\n".encode())
    return reply("200 OK", PLANTED)


@pytest.fixture
def agent() -> Iterator[HttpPeer]:
    with HttpPeer(answer) as peer:
        yield peer


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        return {
            entry.name.removeprefix("pilot-agent-bug-report/"): (
                found.extractfile(entry) or io.BytesIO()
            ).read()
            for entry in found.getmembers()
        }


def ports(agent: HttpPeer) -> tuple[str, ...]:
    return f"--status-port={agent.port}", f"--admin-port={agent.port}"


def test_the_archive_has_all_parts_and_no_secret(agent: HttpPeer, tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    done = run_agent("bug-report", *ports(agent), "--output", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file], "no partial file is left"
    found = members(file.read_bytes())
    assert {"status.json", "agent.log", "metrics.txt", "envoy/config-dump.json", "versions.json"} <= set(
        found
    )
    everything = b"".join(found.values()).decode()
    for secret in ("PLANTED", WORD, JWT):
        assert secret not in everything
    assert json.loads(found["status.json"])["ready"] is True
    assert found["agent.log"].startswith(b"a line\n")
    assert found["agent.log"].endswith(b"last line\n")
    assert found["ready.txt"] == b"503\n"
    manifest = json.loads(found["manifest.json"])
    assert manifest["parts"]["envoy/memory.json"] == "status 404"
    assert json.loads(found["versions.json"])["packages"]["h11"] != "not installed"


def test_without_envoy_the_agents_parts_are_there_and_the_manifest_says_why(
    agent: HttpPeer, tmp_path: Path
) -> None:
    file = tmp_path / "report.tar.gz"
    port = closed_port()
    done = run_agent("bug-report", f"--status-port={agent.port}", f"--admin-port={port}", "-o", str(file))
    assert done.returncode == 0
    found = members(file.read_bytes())
    assert "status.json" in found
    assert "envoy/config-dump.json" not in found
    assert "connection refused" in json.loads(found["manifest.json"])["parts"]["envoy/config-dump.json"]


def test_with_nobody_there_it_is_an_error_and_no_file(tmp_path: Path) -> None:
    port = closed_port()
    file = tmp_path / "report.tar.gz"
    done = run_agent("bug-report", f"--status-port={port}", f"--admin-port={port}", "-o", str(file))
    assert done.returncode == 255
    assert "nobody answers: Get " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(agent: HttpPeer) -> None:
    done = run_agent("bug-report", *ports(agent), "-o", "/proc/nowhere/report.tar.gz")
    assert done.returncode == 255
    assert "open /proc/nowhere/report.tar.gz.part: no such file or directory" in done.stderr
