"""Runs an injected pod as Kubernetes would: the rendered workload, its own argv and environ, real namespaces.

    with Node() as node, Pod(node, "sidecar-native") as pod:
        proxy = pod.start("istio-proxy")
        node.wait_ready(pod)
        proxy.execute("pilot-agent", "request", "POST", "drain", ...)

A node is a network namespace with the control plane's address and the kubelet's; a pod has its own
network, IPC, volumes and /dev/shm; a container has its own PIDs, a read-only root with nothing in it but
what an image has, the user and capabilities of its security context, and the pod's memory limit where the
machine lets us set one. Wants root. Nothing outside of the namespaces is touched.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import psutil
import pytest

from tests.support import cgroups
from tests.support import namespaces as ns
from tests.support.agent import REPOSITORY
from tests.support.image_root import Root
from tests.support.name_server import NameServer
from tests.support.waiting import wait_for

T = TypeVar("T")
Json = Mapping[str, Any]  # Any: the extracts' JSON, as Kubernetes spells it

DATA: Final = Path(__file__).parents[1] / "data" / "pods"
POD_IP, NODE_IP, HOST_IP = "10.1.2.3", "10.1.0.1", "192.0.2.10"
POD_IP6, NODE_IP6 = "fd00:10:1::203", "fd00:10:1::1"
CONTROL_PLANE: Final = "10.96.0.10"
NAME_SERVER: Final = "10.96.0.53"
CONTROL_PLANE_NAMES: Final = (
    "istiod.istio-system.svc",
    "istiod-canary.istio-system.svc",
    "ca.example.org",
)


def pod_names() -> list[str]:
    """Return the names of all rendered workloads."""
    return sorted(path.name.split(".")[0] for path in DATA.glob("*.istio-proxy.json"))


def extract(pod: str, container: str = "istio-proxy") -> Json:
    """Return what the injector wrote about one container, with the example of what its process sees."""
    found: Json = json.loads((DATA / f"{pod}.{container}.json").read_text())
    return found


def has(pod: str, container: str) -> bool:
    return (DATA / f"{pod}.{container}.json").is_file()


def wants_extensions_of_istio(pod: str) -> bool:
    """Return whether the bootstrap names what only Istio's own build of Envoy has."""
    example = extract(pod)["example"]
    return "waypoint" in example["argv"] or "ISTIO_META_ENABLE_HBONE" in example["environ"]


def grace_period_s(pod: str) -> float:
    """Return terminationGracePeriodSeconds of the workload; 30 unless it says otherwise."""
    for line in (DATA / f"{pod}.yaml").read_text().splitlines():
        if line.strip().startswith("terminationGracePeriodSeconds:"):
            return float(line.rpartition(":")[2])
    return 30.0


_IMAGE_DEFAULTS: Final[Json] = {"runAsUser": 0, "runAsGroup": 0}
"""What holds for a container without a security context: the image's user."""


def memory_limit_bytes(pod: str) -> int:
    """Return the limit of the proxy's container; 0 without one."""
    text = str((extract(pod)["resources"].get("limits") or {}).get("memory", "0"))
    units = {"Mi": 1 << 20, "Gi": 1 << 30}
    return int(text[:-2]) * units[text[-2:]] if text[-2:] in units else int(text)


@cache
def why_no_pods() -> str:
    """Return why no pod can be made on this machine; empty if one can."""
    if os.geteuid() != 0:
        return "wants root, for namespaces and mounts"
    if subprocess.run(["ip", "-V"], capture_output=True, check=False).returncode != 0:
        return "wants iproute2"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else f"no namespaces: {tried.stderr.decode()[-200:]}"


class Sandbox:
    """A process that holds namespaces and volumes until it is closed or this process ends."""

    def __init__(self, name: str, *volumes: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.pod_sandbox", name, *volumes],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the sandbox cannot be made"
        self.pid = self._process.pid

    def ip(self, *commands: str) -> None:
        """Run commands of `ip` in this network."""
        batch = "\n".join(commands) + "\n"
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "-batch", "-"],
            input=batch,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"ip: {done.stderr}"

    def within(self, what: Callable[[], T]) -> T:
        """Call something in this network; sockets that it makes stay there."""
        return ns.within(self.pid, what)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Node:
    """The machine that pods run on: the kubelet asks from it, the control plane listens on it."""

    def __init__(self) -> None:
        if reason := why_no_pods():
            pytest.skip(reason)
        self.sandbox = Sandbox("node-1")
        self.sandbox.ip(
            "link set lo up",
            f"addr add {CONTROL_PLANE}/32 dev lo",
            f"addr add {NAME_SERVER}/32 dev lo",
            f"addr add {HOST_IP}/32 dev lo",
        )
        self._names = NameServer(
            self.sandbox.within(_bound_to_name_server), dict.fromkeys(CONTROL_PLANE_NAMES, CONTROL_PLANE)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._names.close()
        self.sandbox.close()

    def probe(self, port: int, path: str, timeout_s: float, host: str = POD_IP) -> int:
        """Return the status of a kubelet's GET.

        Raises:
            OSError: no connection, or no answer in time.
        """
        return self.get(port, path, timeout_s, host)[0]

    def get(self, port: int, path: str, timeout_s: float = 5.0, host: str = POD_IP) -> tuple[int, str]:
        """Return status and body of a GET to the pod's address, sent from the node."""
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        connection.sock = self.sandbox.within(lambda: socket.create_connection((host, port), timeout_s))
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"{path}: {error}") from error
        finally:
            connection.close()


class Pod:
    """One injected workload on a node, with its own network and volumes."""

    def __init__(
        self,
        node: Node,
        name: str,
        directory: Path,
        *,
        root: Root | None = None,
        sizes: Mapping[str, str] | None = None,
    ) -> None:
        """Make sandbox, network and volumes; no container runs yet.

        Args:
            node: Where it runs.
            name: The rendered workload, `sidecar-native`.
            directory: For logs and specifications, on this side.
            root: What containers have as their root file system; this machine's parts unless given.
            sizes: Volume → its size, where that matters.
        """
        self.node, self.name, self.directory = node, name, directory
        self.root = root or Root.of_this_machine(stock_envoy=wants_extensions_of_istio(name))
        self.mounts = extract(name)["volumeMounts"]
        volumes = {mount["name"]: (sizes or {}).get(mount["name"], "64m") for mount in self.mounts}
        self.sandbox = Sandbox(name[:60], *(f"{name}={size}" for name, size in volumes.items()))
        self.memory = cgroups.MemoryLimit.make(memory_limit_bytes(name))
        self.containers: list[Container] = []
        self._connect()

    def _connect(self) -> None:
        self.node.sandbox.ip(f"link add to-pod type veth peer name eth0 netns {self.sandbox.pid}")
        self.node.sandbox.ip(
            f"addr add {NODE_IP}/16 dev to-pod",
            f"addr add {NODE_IP6}/64 dev to-pod nodad",
            "link set to-pod up",
        )
        self.sandbox.ip(
            "link set lo up",
            f"addr add {POD_IP}/16 dev eth0",
            f"addr add {POD_IP6}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {NODE_IP}",
            f"route add ::/0 via {NODE_IP6}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in reversed(self.containers):
            container.kill()
        self.sandbox.close()
        self.memory.remove()
        if error is not None:
            for container in self.containers:
                sys.stderr.write(f"--- log of {container.name} in {self.name}\n{container.log()[-20000:]}\n")

    def volume(self, name: str) -> Path:
        """Return where a volume can be looked at from outside."""
        return Path(f"/proc/{self.sandbox.pid}/root/mnt/volumes/{name}")

    def shared_memory(self) -> list[str]:
        """Return the names in the pod's /dev/shm."""
        return sorted(path.name for path in Path(f"/proc/{self.sandbox.pid}/root/mnt/shm").iterdir())

    def provision(self, root_pem: str, token: str, *, labels: str = 'app="ratings"\n') -> None:
        """Fill the volumes that Kubernetes fills, with its links that are exchanged on an update."""
        for volume, name, text in (
            ("istiod-ca-cert", "root-cert.pem", root_pem),
            ("istio-token", "istio-token", token),
            ("istio-podinfo", "labels", labels),
            ("istio-podinfo", "annotations", 'kubernetes.io/config.seen="2026-01-31T04:05:06.123Z"\n'),
        ):
            if any(mount["name"] == volume for mount in self.mounts):
                _project(self.volume(volume), name, text)

    def start(
        self,
        container: str = "istio-proxy",
        *,
        arguments: tuple[str, ...] | None = None,
        environment: Mapping[str, str] | None = None,
        without_volumes: tuple[str, ...] = (),
        read_only_volumes: tuple[str, ...] = (),
    ) -> "Container":
        """Start a container with its own argv and environ; what is named here differs."""
        found = extract(self.name, container)
        example = found["example"]
        started = Container(
            self,
            container,
            argv=[example["argv"][0], *(example["argv"][1:] if arguments is None else arguments)],
            environ={"PATH": self.root.path, **example["environ"], **(environment or {})},
            security=found["securityContext"] or _IMAGE_DEFAULTS,
            volumes={
                mount["mountPath"].rstrip("/"): {
                    "name": mount["name"],
                    "read_only": bool(mount.get("readOnly"))
                    or mount["name"]
                    in (*read_only_volumes, "istiod-ca-cert", "istio-token", "istio-podinfo"),
                }
                for mount in found.get("volumeMounts") or ()
                if mount["name"] not in without_volumes
            },
        )
        self.containers.append(started)
        return started


class Container:
    """A running container; its process 1 is `pid` from outside."""

    def __init__(
        self,
        pod: Pod,
        name: str,
        *,
        argv: list[str],
        environ: Mapping[str, str],
        security: Json,
        volumes: Mapping[str, object],
        inside: int = 0,
    ) -> None:
        self.pod, self.name = pod, name
        self._number = len(list(pod.directory.glob("*.json")))
        self._log = pod.directory / f"{self._number}-{name}.log"
        capabilities = security.get("capabilities", {}).get("add", [])
        self._wish = {
            "sandbox": pod.sandbox.pid,
            "inside": inside,
            "cgroups": pod.memory.files,
            "cgroup_views": pod.memory.views,
            "log": str(self._log),
            "binds": pod.root.binds,
            "files": pod.root.files
            | {
                "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{POD_IP} {pod.name}\n",
                "/etc/resolv.conf": f"search bookinfo.svc.cluster.local svc.cluster.local cluster.local\n"
                f"nameserver {NAME_SERVER}\noptions ndots:5\n",
            },
            "links": pod.root.links,
            "set_gid": pod.root.set_gid,
            "image": pod.root.image,
            "volumes": volumes,
            "read_only": security.get("readOnlyRootFilesystem", False),
            "uid": security.get("runAsUser", 0),
            "gid": security.get("runAsGroup", 0),
            "capabilities": capabilities,
            "new_privileges": security.get("allowPrivilegeEscalation", True),
            "argv": argv,
            "environ": dict(environ),
        }
        self.security, self.environ = security, environ
        file = pod.directory / f"{self._number}-{name}.json"
        file.write_text(json.dumps(self._wish))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.pod_container", str(file)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            line = stdout.readline()
        assert line, f"{name} cannot be started:\n{self.log()}"
        self.pid = int(line)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, within_s: float) -> int:
        """Return the exit status; fails when it has not ended in time."""
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended within {within_s:g} s:\n{self.log()}") from None

    def kill(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # the kernel ends its namespace with it
        self._process.wait(10)
        wait_for(lambda: not psutil.pid_exists(self.pid), what=f"{self.name} being gone")

    def is_running(self) -> bool:
        return self._process.poll() is None

    def execute(self, *argv: str, within_s: float = 30.0) -> tuple[int, str]:
        """Run a command as a hook does; return its status and what it wrote."""
        command = Container(
            self.pod,
            Path(argv[0]).name,
            argv=list(argv),
            environ=self.environ,
            security=self.security,
            volumes={},
            inside=self.pid,
        )
        try:
            return command.wait(within_s), command.log()
        finally:
            command.kill()

    def processes(self) -> list[psutil.Process]:
        """Return process 1 and everything below it."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def pod_on_node(name: str, directory: Path, **more: Any) -> Iterator[Pod]:  # Any: what Pod takes
    """Make a node with one pod on it."""
    with Node() as node, Pod(node, name, directory, **more) as pod:
        yield pod


def _bound_to_name_server() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind((NAME_SERVER, 53))
    return bound


def _project(directory: Path, name: str, text: str) -> None:
    """Write a file as Kubernetes does: reached by a link, `..data`, that an update exchanges."""
    generation = directory / "..2026_01_31_04_05_06.1"
    generation.mkdir(exist_ok=True)
    (generation / name).write_text(text)
    if not (directory / "..data").is_symlink():
        (directory / "..data").symlink_to(generation.name)
    (directory / name).symlink_to(f"..data/{name}")
