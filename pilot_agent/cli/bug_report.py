"""Collects the parts of a bug report, takes secrets out, and writes the archive whole or not at all."""

import io
import json
import os
import platform
import sys
import tarfile
import time
from importlib import metadata
from typing import Final, NamedTuple

from pilot_agent.cli.errors import CliError
from pilot_agent.cli.fetch import fetch
from pilot_agent.cli.output import print_error, print_out
from pilot_agent.cli.redaction import redacted, redacted_text
from pilot_agent.version import build_info

_TIMEOUT_S: Final = 30.0
_PACKAGES: Final = ("cryptography", "grpcio", "h11", "h2", "msgspec", "psutil", "pykka", "PyYAML", "tenacity")


class Source(NamedTuple):
    """One part: its name in the archive, and whom to ask for it."""

    name: str
    port: int
    path: str


class Part(NamedTuple):
    """What was found, or why nothing."""

    name: str
    content: bytes
    error: str = ""


def sources(status_port: int, admin_port: int) -> tuple[Source, ...]:
    """Return what is asked, the most telling first."""
    return (
        Source("status.json", status_port, "status?format=json"),
        Source("agent.log", status_port, "debug/logs"),
        Source("ready.txt", status_port, "healthz/ready"),
        Source("metrics.txt", status_port, "metrics?usedonly"),
        Source("name-table.json", status_port, "debug/ndsz"),
        Source("envoy/server-info.json", admin_port, "server_info"),
        Source("envoy/config-dump.json", admin_port, "config_dump?include_eds"),
        Source("envoy/clusters.txt", admin_port, "clusters"),
        Source("envoy/listeners.txt", admin_port, "listeners"),
        Source("envoy/certificates.json", admin_port, "certs"),
        Source("envoy/stats.txt", admin_port, "stats?usedonly"),
        Source("envoy/memory.json", admin_port, "memory"),
    )


def write_report(output: str, *, status_port: int, admin_port: int) -> None:
    """Write the archive to `output` ("-": stdout; empty: a file named by the time).

    Raises:
        CliError: neither the agent nor Envoy answered, or the file cannot be written; nothing is left then.
    """
    began_s = time.time()
    parts = [_asked(source) for source in sources(status_port, admin_port)]
    if all(part.error for part in parts):
        raise CliError(f"nobody answers: {parts[0].error}")
    parts += [Part("versions.json", _versions())]
    archive = _archive((*parts, Part("manifest.json", _manifest(parts, began_s))), began_s)
    if output == "-":
        print_out(archive)
        return
    path = output or time.strftime("pilot-agent-bug-report-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime(began_s))
    _write(path, archive)
    print_error(f"{path}\n")


def _asked(source: Source) -> Part:
    try:
        answer = fetch("GET", f"http://localhost:{source.port}/{source.path}", timeout_s=_TIMEOUT_S)
    except CliError as error:
        return Part(source.name, b"", redacted_text(str(error)))
    if answer.status >= 400 and source.name != "ready.txt":
        return Part(source.name, b"", f"status {answer.status}")
    head = f"{answer.status}\n".encode() if source.name == "ready.txt" else b""
    return Part(source.name, head + redacted(answer.body))


def _versions() -> bytes:
    found: dict[str, object] = {
        "pilot-agent": build_info()._asdict(),
        "python": sys.version,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }
    return json.dumps(found, indent=1).encode() + b"\n"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _manifest(parts: list[Part], began_s: float) -> bytes:
    found = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began_s)),
        "parts": {part.name: part.error or f"{len(part.content)} bytes" for part in parts},
        "redaction": "private keys, tokens, passwords, cookies and the like are replaced by [redacted]",
    }
    return json.dumps(found, indent=1).encode() + b"\n"


def _archive(parts: tuple[Part, ...], began_s: float) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for part in parts:
            if part.error:
                continue
            entry = tarfile.TarInfo(f"pilot-agent-bug-report/{part.name}")
            entry.size, entry.mtime, entry.mode = len(part.content), int(began_s), 0o600
            archive.addfile(entry, io.BytesIO(part.content))
    return buffer.getvalue()


def _write(path: str, archive: bytes) -> None:
    partial = f"{path}.part"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CliError(f"open {partial}: {(error.strerror or str(error)).lower()}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(archive)
        os.rename(partial, path)  # noqa: PTH104  # pathlib costs this command 10 ms
    except OSError as error:
        os.unlink(partial)  # noqa: PTH108
        raise CliError(f"write {path}: {(error.strerror or str(error)).lower()}") from error
