"""A real Envoy in a pod: it listens where captured traffic arrives, and passes it on to its destination."""

import http.client
import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.netns import Namespace
from tests.support.real_envoy import envoy_path
from tests.support.waiting import wait_for

ADMIN_PORT: Final = 15000
_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions.filters"
_ANY: Final = {4: "0.0.0.0", 6: "::"}
_SOURCE: Final = {4: "127.0.0.6", 6: "::6"}
_MARK: Final = 1337


def bootstrap(*, tproxy: bool) -> dict[str, Any]:
    """Return a bootstrap: 15001 and 15006 in both families, each with a counter of its own."""
    sides = [(side, family) for side in ("outbound", "inbound") for family in (4, 6)]
    return {
        "admin": {"address": _socket_address("127.0.0.1", ADMIN_PORT)},
        "static_resources": {
            "listeners": [_listener(side, family, tproxy=tproxy) for side, family in sides],
            "clusters": [_cluster(side, family, tproxy=tproxy) for side, family in sides],
        },
    }


class PodEnvoy:
    """Envoy in `pod`, run as the proxy's user, or, for TPROXY, as root with the proxy's group."""

    def __init__(self, pod: Namespace, directory: Path, *, tproxy: bool = False) -> None:
        self._pod, self._log = pod, directory / "envoy.log"
        self._file = directory / "envoy.json"
        self._file.write_text(json.dumps(bootstrap(tproxy=tproxy)), encoding="utf-8")
        for path in (directory, self._file):
            path.chmod(0o755)
        self._prefix = pod.prefix(uid=0 if tproxy else 1337, gid=1337)

    def __enter__(self) -> Self:
        words = ("--disable-hot-restart", "--concurrency", "1", "-l", "warning")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._prefix, str(envoy_path()), "-c", str(self._file), *words],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: "LIVE" in self.admin("/ready"), within_s=20, what="Envoy being LIVE")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(10)

    def captured(self) -> dict[str, int]:
        """Return how many connections came in at each listener, by its name."""
        lines = self.admin("/stats?filter=^listener\\.(in|out)bound.\\.downstream_cx_total").splitlines()
        return {line.split(".")[1]: int(line.rpartition(" ")[2]) for line in lines}

    def admin(self, path: str) -> str:
        """Return what the admin port answers.

        Raises:
            OSError: it cannot be reached.
        """
        connection = http.client.HTTPConnection("127.0.0.1", ADMIN_PORT, timeout=10)
        try:
            with self._pod.entered():
                connection.connect()
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


def _listener(side: str, family: int, *, tproxy: bool) -> dict[str, Any]:
    filters: list[dict[str, Any]] = [_extension("listener.original_dst", "OriginalDst")]
    transparent = tproxy and side == "inbound"
    if transparent:
        filters.append(_extension("listener.original_src", "OriginalSrc", mark=_MARK))
    return {
        "name": f"{side}{family}",
        "stat_prefix": f"{side}{family}",
        "address": _socket_address(_ANY[family], 15001 if side == "outbound" else 15006),
        "transparent": transparent,
        "listener_filters": filters,
        "filter_chains": [
            {
                "filters": [
                    _extension("network.tcp_proxy", "TcpProxy", stat_prefix="all", cluster=f"{side}{family}")
                ]
            }
        ],
    }


def _cluster(side: str, family: int, *, tproxy: bool) -> dict[str, Any]:
    cluster = {
        "name": f"{side}{family}",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
    }
    if side == "inbound" and not tproxy:
        source = {"address": _SOURCE[family], "port_value": 0}
        return cluster | {"upstream_bind_config": {"source_address": source}}
    return cluster


def _extension(name: str, kind: str, **members: object) -> dict[str, Any]:
    typed = {"@type": f"{_EXTENSIONS}.{name}.v3.{kind}", **members}
    return {"name": f"envoy.filters.{name}", "typed_config": typed}


def _socket_address(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}
