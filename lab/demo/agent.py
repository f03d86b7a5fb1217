"""One agent of the demo: a process of `pilot-agent proxy ROLE` in a directory of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from lab.demo.http import get
from lab.demo.layout import ROOT, Proxy
from lab.demo.show import StepFailedError
from lab.demo.waiting import until
from lab.istiod import Istiod

_QUIT_S = 15.0
_TITLE = re.compile(r"^pilot-agent: ([a-z-]+)")
_LOG_TAIL = 12


class Agent:
    """From `start` to `wait_ended`; in between asked over its ports and looked at as processes."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._log = proxy.directory / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._began_s = 0.0

    def start(self, istiod: Istiod, *, envoy: Path, istiod_port: int) -> None:
        """Start from an empty directory with the CA's root and a token in it, as a pod would."""
        shutil.rmtree(self.proxy.directory, ignore_errors=True)
        self.proxy.directory.mkdir(parents=True)
        istiod.provision(self.proxy.directory, "default", self.proxy.service_account)
        command = [
            *(sys.executable, str(ROOT / "bin" / "pilot-agent"), "proxy", self.proxy.role),
            *("--domain", "default.svc.cluster.local", "--proxyLogLevel=warning"),
            *("--proxyComponentLogLevel=misc:error", "--log_output_level=default:info"),
        ]
        self._began_s = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.proxy.directory,
                env=self.proxy.environment(envoy=envoy, istiod_port=istiod_port, path=os.defpath),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the demo's, which then ends its agents in order
            )

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def wait_ready(self, within_s: float = 60.0) -> float:
        """Return after how many seconds since its start the agent said that it is ready."""

        def look() -> bool:
            assert self._process is not None, "not started"
            if self._process.poll() is not None:
                raise StepFailedError(f"the agent ended with exit status {self._process.returncode}")
            return get(self.proxy.status_port, "/healthz/ready").status == 200

        try:
            until(look, what=f"{self.proxy.role} ready", within_s=within_s)
        except StepFailedError as error:
            raise StepFailedError(f"{error}; its log ends:\n{self.log_tail()}") from error
        return time.monotonic() - self._began_s

    def actors(self) -> Mapping[str, int]:
        """Return the pid of each actor, found by the title of its process."""
        found = {}
        for child in self._children():
            title = _TITLE.match(_command_line(child))
            if title:
                found[title[1]] = child.pid
        return found

    def envoys(self) -> list[int]:
        """Return the pids of the Envoys that live, two of them during a hot restart."""
        return [child.pid for child in self._children() if " -c " in f"{_command_line(child)} "]

    def ready_pid(self, role: str) -> int:
        """Return the pid of an actor that has said Ready, 0 if it has not. As fresh as the last heartbeat."""
        actors = json.loads(get(self.proxy.status_port, "/status").body)["actors"]
        return next((one["pid"] for one in actors if one["name"] == role and one["state"] == "ready"), 0)

    def admin(self, path: str) -> Any:  # Any: Envoy's JSON
        """Return what Envoy's admin port answers.

        Raises:
            OSError: no answer, or another status than 200.
        """
        answer = get(self.proxy.admin_port, path)
        if answer.status != 200:
            raise OSError(f"{path}: status {answer.status}")
        return json.loads(answer.body)

    def epoch(self) -> int:
        """Return the restart epoch of the Envoy that answers, once it is LIVE.

        Raises:
            OSError: it does not answer, or is not LIVE.
        """
        info = self.admin("/server_info")
        if info["state"] != "LIVE":
            raise OSError(f"Envoy is {info['state']}")
        return int(info["command_line_options"]["restart_epoch"])

    def log_bytes(self) -> int:
        return self._log.stat().st_size

    def log_since(self, offset: int) -> str:
        """Return what was logged after the first `offset` bytes."""
        with self._log.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def log_tail(self) -> str:
        """Return the last lines of the agent's and Envoy's log."""
        lines = self.log_since(0).splitlines() if self._log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL:])

    def ask_to_quit(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait_ended(self) -> int | None:
        """Return its exit status, None if it never ran; past its time it is killed, as kubelet does."""
        if self._process is None:
            return None
        try:
            return self._process.wait(_QUIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # everything else of it ends with it
            return self._process.wait()

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
