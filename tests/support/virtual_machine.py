"""A virtual machine's service in namespaces: the unit's own command under the unit's own restrictions."""

import configparser
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from lab.istiod import SERVER_NAMES, Istiod
from tests.support import pod as pods
from tests.support.agent import REPOSITORY
from tests.support.image_root import Root
from tests.support.pod import Container, Node, Pod
from tests.support.pod_mesh import pod_world

VM: Final = REPOSITORY / "deploy" / "vm"
ISTIO_PROXY: Final = 998  # a system account with some free number
NOTIFY: Final = "@systemd-of-the-test"
_VOLUMES: Final = {
    "/var/lib/istio": "istio-data",
    "/run": "workload-socket",
    "/etc/certs": "workload-certs",
    "/var/log/istio": "credential-socket",
}


def unit(section: str = "Service") -> dict[str, str]:
    """Return a section of the unit."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(VM / "istio.service")
    return dict(parser[section])


class VirtualMachine:
    """One machine on a node's network, with the files that a workload entry's configuration makes."""

    def __init__(self, pod: Pod, istiod: Istiod) -> None:
        self._pod, self.istiod = pod, istiod
        self.listener = pod.sandbox.within(_listening)
        self.listener.settimeout(20)
        data = pod.volume("istio-data")
        for name in ("envoy", "proxy", "config", "data"):
            (data / name).mkdir()
            (data / name).chmod(0o777)
        (data / "envoy" / "sidecar.env").write_text("# ISTIO_AGENT_FLAGS=\nSECRET_TTL=2h\n")
        (data / "envoy" / "cluster.env").write_text(
            "ISTIO_NAMESPACE='bookinfo'\nISTIO_SERVICE='ratings.bookinfo'\nSERVICE_ACCOUNT='bookinfo-ratings'\n"
            "ISTIO_INBOUND_PORTS='*'\nISTIO_SERVICE_CIDR='*'\nISTIO_LOCAL_EXCLUDE_PORTS='22,15090,15021,15020'\n"
            "CLOUD_PLATFORM='none'\nTRUST_DOMAIN='cluster.local'\n"
        )
        (data / "config" / "mesh").write_text(
            "defaultConfig:\n  proxyMetadata:\n    CANONICAL_SERVICE: ratings\n    POD_NAMESPACE: bookinfo\n"
        )
        (pod.volume("workload-certs") / "root-cert.pem").write_text(istiod.root_pem)
        tokens = pod.volume("workload-socket") / "secrets" / "tokens"
        tokens.mkdir(parents=True)
        (tokens / "istio-token").write_text(istiod.mint_token("bookinfo", "bookinfo-ratings"))

    def start(self, *words: str, environment: dict[str, str] | None = None) -> Container:
        """Run the unit's command; the words replace its arguments."""
        service = unit()
        assert service["ProtectSystem"] == "strict"
        assert service["NoNewPrivileges"] == "yes"
        writable = {*service["ReadWritePaths"].split(), f"/var/log/{service['LogsDirectory']}"}
        assert writable == set(_VOLUMES)
        capabilities = [name.removeprefix("CAP_") for name in service["CapabilityBoundingSet"].split()]
        started = Container(
            self._pod,
            "istio-start",
            argv=[service["ExecStart"], *words],
            environ={"PATH": self._pod.root.path, "NOTIFY_SOCKET": NOTIFY, "WATCHDOG_USEC": "2000000"}
            | (environment or {}),
            security={
                "runAsUser": 0,
                "runAsGroup": 0,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"add": capabilities},
            },
            volumes={place: {"name": name, "read_only": False} for place, name in _VOLUMES.items()},
        )
        self._pod.containers.append(started)
        return started

    def log(self, name: str = "istio.log") -> str:
        file = self._pod.volume("credential-socket") / name
        return file.read_text() if file.exists() else ""

    def told(self) -> str:
        """Return the next thing that the service manager is told."""
        return self.listener.recv(4096).decode()

    def wait_told(self, line: str) -> None:
        while line not in self.told().splitlines():
            pass  # the socket has a time limit


@contextmanager
def virtual_machine(directory: Path) -> Iterator[VirtualMachine]:
    """Make a node with a control plane, and one machine on it."""
    istiod = Istiod(
        pod_world,
        host=pods.CONTROL_PLANE,
        port=15012,
        names=(*SERVER_NAMES, *pods.CONTROL_PLANE_NAMES),
    )
    root = Root.of_this_machine()
    account = f"istio-proxy:x:{ISTIO_PROXY}"
    files = root.files | {
        "/usr/local/bin/istio-start.sh": (VM / "istio-start.sh").read_text(),
        "/etc/passwd": root.files["/etc/passwd"] + f"{account}:{ISTIO_PROXY}::/var/lib/istio:/bin/sh\n",
        "/etc/group": root.files["/etc/group"] + f"{account}:\n",
    }
    root = replace(root, files=files, links={"/etc/istio": "/var/lib/istio"}, set_gid=ISTIO_PROXY)
    with Node() as node:
        node.sandbox.within(istiod.start)
        try:
            with Pod(node, "sidecar-classic", directory, root=root) as pod:
                machine = VirtualMachine(pod, istiod)
                try:
                    yield machine
                finally:
                    machine.listener.close()
        finally:
            istiod.quit()


def _listening() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(f"\0{NOTIFY[1:]}")
    return listener
