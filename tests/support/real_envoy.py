"""A real Envoy for a test: found, started in a directory of its own, asked over its admin port, ended."""

import http.client
import json
import os
import random
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from lab.envoy_binary import EnvoyMissingError, find_envoy
from tests.support.waiting import wait_for


def envoy_path() -> Path:
    """Return the Envoy binary; without one the test is skipped, in CI (variable CI) it fails."""
    try:
        return find_envoy()
    except EnvoyMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, all different, none of them given before.

    They lie below the range from which the kernel takes the local ports of outgoing connections, or one
    of those could take a port between this look and the moment when it is needed. Each of several
    pytest-xdist workers has a share of its own, for the same reason.
    """
    worker, workers = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), _workers()
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000 + worker, _ephemeral_from(), workers)
        if port not in _given and _is_free(port):
            _given.add(port)
            found.append(port)
    return found


def _workers() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def _ephemeral_from() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("0.0.0.0", port)).close()
    except OSError:
        return False
    return True


class PortMap:
    """Gives each port of a configuration a free one in its place, the same one each time."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def __call__(self, port: int) -> int:
        if port not in self._known:
            self._known[port] = free_ports(1)[0]
        return self._known[port]


def replace_ports(document: Any, pick: Callable[[int], int]) -> Any:  # Any: JSON
    """Return a bootstrap with every `port_value` replaced."""
    if isinstance(document, dict):
        return {
            key: pick(value) if key == "port_value" else replace_ports(value, pick)
            for key, value in document.items()
        }
    return [replace_ports(one, pick) for one in document] if isinstance(document, list) else document


class RealEnvoy:
    """Envoy with a bootstrap, in `directory`; relative paths in the bootstrap are below it."""

    def __init__(self, directory: Path, bootstrap: Mapping[str, Any], *arguments: str) -> None:
        self._directory = directory
        self._file = directory / "bootstrap.json"
        self._file.write_text(json.dumps(bootstrap), encoding="utf-8")
        self.admin_port: int = bootstrap["admin"]["address"]["socket_address"]["port_value"]
        self._arguments = arguments or ("--disable-hot-restart", "--concurrency", "1", "-l", "warning")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._directory / "envoy.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(envoy_path()), "-c", str(self._file), *self._arguments],
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def log(self) -> str:
        return (self._directory / "envoy.log").read_text(encoding="utf-8", errors="replace")

    def admin(self, path: str) -> str:
        """Return what the admin port answers.

        Raises:
            OSError: it cannot be reached, or says another status than 200.
        """
        return get(self.admin_port, path)[1]

    def stats(self, pattern: str) -> dict[str, int]:
        """Return the counters and gauges whose names match the regular expression."""
        lines = self.admin(f"/stats?filter={pattern}").splitlines()
        pairs = (line.rpartition(": ")[::2] for line in lines)
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def wait_live(self, within_s: float = 20.0) -> None:
        wait_for(lambda: "LIVE" in self.admin("/ready"), within_s=within_s, what="Envoy being LIVE")


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[Mapping[str, str], str]:
    """Return headers (lower-case names) and body of a 200.

    Raises:
        OSError: no connection, or another status.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"{path}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"{path}: status {response.status}: {body[:500]}")
    return {key.lower(): value for key, value in response.getheaders()}, body
