"""The real agent for a test: the program as a user starts it, with a real Envoy, in its own directory."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from pilot_agent.envoy.shared_files import SharedFiles
from tests.support.process_tree import wait_ended
from tests.support.real_envoy import envoy_path, free_ports, get
from tests.support.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
ROLES = ("cert", "sds", "upstream-xds", "downstream-xds", "health", "envoy")


def command() -> list[str]:
    """Return how the agent is started: the one that is named, the installed one, or the checkout's."""
    named = os.environ.get("AGENT_UNDER_TEST")
    if named:
        return [named]
    installed = shutil.which("pilot-agent", path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, str(REPOSITORY / "bin" / "pilot-agent")]


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short path: a Unix socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pa-", dir="/tmp") as directory:
        yield Path(directory)


class RealAgent:
    """One agent on loopback, with ports of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        discovery: str,
        role: str = "sidecar",
        account: str = "bookinfo-apps",
        proxy_config: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = ("--log_output_level=default:info",),
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.admin_port, self.status_port, self.ready_port, self.stats_port = free_ports(4)
        config = {
            "binaryPath": str(envoy_path()),
            "concurrency": 1,
            "discoveryAddress": discovery,
            "proxyAdminPort": self.admin_port,
            "statusPort": self.status_port,
            "terminationDrainDuration": "1s",
            "drainDuration": "2s",
            "parentShutdownDuration": "7s",
        } | dict(proxy_config or {})
        self.environment = {
            "PATH": os.environ["PATH"],
            "CLOUD_PLATFORM": "none",
            "ENVOY_PROMETHEUS_PORT": str(self.stats_port),
            "ENVOY_STATUS_PORT": str(self.ready_port),
            "INSTANCE_IP": "127.0.0.1",
            "ISTIO_META_CLUSTER_ID": "Kubernetes",
            "POD_NAME": f"{role}-1",
            "POD_NAMESPACE": "default",
            "PROXY_CONFIG": json.dumps(config),
            "SERVICE_ACCOUNT": account,
            "TRUST_DOMAIN": "cluster.local",
        } | dict(environment or {})
        self._command = [
            *prefix,
            *command(),
            "proxy",
            role,
            "--domain",
            "default.svc.cluster.local",
            *arguments,
        ]
        self._log = directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.directory, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            sys.stderr.write(f"--- log of the agent in {self.directory}\n{self.log()[-20000:]}\n")

    def kill(self) -> None:
        """End the supervisor with SIGKILL: everything else ends with it."""
        assert self.process is not None
        family = self.family()
        self.process.kill()
        self.process.wait(10)
        left = wait_ended(family)
        for process in left:
            process.kill()
        assert not left, f"processes outlived the supervisor: {left}"
        SharedFiles(str(self.directory / "etc/istio/proxy")).remove_dead()  # /dev/shm outlives the directory

    def quit(self, within_s: float = 15.0) -> int:
        """End it as kubelet would; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def family(self) -> list[psutil.Process]:
        """Return every process below the supervisor."""
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def actor(self, role: str) -> int | None:
        """Return the pid of an actor."""
        for process in self.family():
            try:
                if " ".join(process.cmdline()).strip() == f"pilot-agent: {role}":
                    return process.pid
            except psutil.Error:
                continue
        return None

    def actor_pid(self, role: str) -> int:
        return wait_for(lambda: self.actor(role), what=f"actor {role}")

    def envoys(self) -> list[psutil.Process]:
        """Return the Envoys that live, oldest first."""
        found = []
        for process in self.family():
            try:
                if process.name() == "envoy" and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda process: process.create_time())

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_log(self, pattern: str, within_s: float = 20.0) -> re.Match[str]:
        return wait_for(
            lambda: re.search(pattern, self.log(), re.MULTILINE),
            within_s=within_s,
            what=f"log line {pattern!r}",
        )

    def is_ready(self) -> bool:
        """Return what a kubelet sees, which asks through Envoy."""
        try:
            get(self.ready_port, "/healthz/ready")
        except OSError:
            return False
        return True

    def wait_ready(self, within_s: float = 30.0) -> Self:
        wait_for(self._ready_or_ended, within_s=within_s, what="being ready through Envoy's own port")
        return self

    def _ready_or_ended(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (
            f"the agent ended with {self.process.returncode}:\n{self.log()[-5000:]}"
        )
        return self.is_ready()

    def admin(self, path: str) -> str:
        return get(self.admin_port, path)[1]

    def stats(self, pattern: str) -> dict[str, int]:
        lines = self.admin(f"/stats?filter={pattern}").splitlines()
        pairs = (line.rpartition(": ")[::2] for line in lines)
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def serial(self) -> str:
        """Return the serial number of the certificate that Envoy uses."""
        certificates = json.loads(self.admin("/certs"))["certificates"]
        return next(
            str(chain["serial_number"]) for entry in certificates for chain in entry.get("cert_chain", ())
        )

    def restart_epoch(self) -> int:
        """Return the epoch of the Envoy that owns the admin port."""
        return int(json.loads(self.admin("/server_info"))["command_line_options"]["restart_epoch"])

    def pss_kib(self) -> dict[str, int]:
        """Return PSS by process, in KiB (root, or processes that can be read)."""
        assert self.process is not None
        found: dict[str, int] = {}
        for process in [psutil.Process(self.process.pid), *self.family()]:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            match = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
            found[f"{process.name()}:{process.pid}"] = int(match[1]) if match else 0
        return found


def port_open(port: int) -> bool:
    """Return whether somebody listens on this port of loopback."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def calm(agent: RealAgent) -> Iterator[RealAgent]:
    """Run an agent that tells whatever happens in words: no stack may stand in its log."""
    with agent:
        yield agent
        assert stack(agent) == ""


def stack(agent: RealAgent) -> str:
    """Return the first stack in an agent's log with the lines around it, empty if there is none."""
    before, found, after = agent.log().partition("Traceback")
    return before[-500:] + found + after[:3000] if found else ""


def with_config(agent: RealAgent, **fields: Any) -> None:
    """Change fields of an agent's PROXY_CONFIG before its start."""
    config = json.loads(agent.environment["PROXY_CONFIG"]) | fields
    agent.environment["PROXY_CONFIG"] = json.dumps(config)
