"""A pod from its start to its end, as the kubelet leads it, with what must hold in between."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.istiod import SERVER_NAMES, Istiod
from tests.support import pod as pods
from tests.support.pod import Container, Node, Pod, extract, grace_period_s
from tests.support.pod_mesh import pod_world
from tests.support.waiting import wait_for

ENVOY_READY = 15021
READY_WITHIN_S = 15.0
"""From exec to Ready, with one other pod at the same time on two slow cores; a probe allows 30 s and more."""

SOCKETS = (
    ("istio-envoy", "XDS"),
    ("istio-xds", "XDS"),
    ("workload-socket", "socket"),
)


@contextmanager
def provisioned(
    name: str, directory: Path, **more: Any
) -> Iterator[tuple[Pod, Istiod]]:  # Any: what Pod takes
    """Make a node with a control plane and one pod, whose volumes have what Kubernetes puts there."""
    environ = extract(name)["example"]["environ"]
    istiod = Istiod(
        pod_world,
        host=pods.CONTROL_PLANE,
        port=15012,
        names=(*SERVER_NAMES, *pods.CONTROL_PLANE_NAMES),
        trust_domain=environ["TRUST_DOMAIN"],
    )
    with Node() as node:
        node.sandbox.within(istiod.start)
        try:
            with Pod(node, name, directory, **more) as pod:
                token = istiod.mint_token(environ["POD_NAMESPACE"], environ["SERVICE_ACCOUNT"])
                pod.provision(istiod.root_pem, token)
                yield pod, istiod
        finally:
            istiod.quit()


def readiness_port(name: str) -> int:
    """Return the port that the probes of this pod ask, Envoy's unless rendered otherwise."""
    probe = extract(name).get("readinessProbe") or {}
    port: int = probe.get("httpGet", {}).get("port", ENVOY_READY)
    return port


def wait_ready(pod: Pod, proxy: Container, within_s: float = READY_WITHIN_S) -> float:
    """Ask as the probes do, only more often; return how long it took from now."""
    begin_s = time.monotonic()
    port = readiness_port(pod.name)

    def is_ready() -> bool:
        assert proxy.is_running(), f"the proxy ended:\n{proxy.log()}"
        return pod.node.probe(port, "/healthz/ready", 1.0) == 200

    wait_for(is_ready, within_s=within_s, what=f"{pod.name} being ready through {port}")
    return time.monotonic() - begin_s


def probe_timeout_s(name: str) -> float:
    timeouts = [
        probe["timeoutSeconds"]
        for kind in ("startupProbe", "readinessProbe")
        if (probe := extract(name)[kind])
    ]
    return float(min(timeouts, default=1.0))


def hook(name: str, when: str) -> Sequence[str]:
    """Return the command of postStart or preStop; none when the pod has no such hook."""
    lifecycle = extract(name)["lifecycle"] or {}
    command: Sequence[str] = lifecycle.get(when, {}).get("exec", {}).get("command", ())
    return command


class Beside:
    """A hook that runs beside the entrypoint; `result` waits for its end."""

    def __init__(self, container: Container, command: Sequence[str]) -> None:
        self._got: list[tuple[int, str]] = []
        self._thread = threading.Thread(target=lambda: self._got.append(container.execute(*command)))
        self._thread.start()

    def result(self) -> tuple[int, str]:
        self._thread.join(60)
        assert self._got, "the hook did not end"
        return self._got[0]


def end(pod: Pod, proxy: Container) -> float:
    """Say SIGTERM as the kubelet does; it ends with 0 within its grace period. Return the seconds."""
    begin_s = time.monotonic()
    proxy.signal(signal.SIGTERM)
    status = proxy.wait(grace_period_s(pod.name))
    assert status == 0, proxy.log()
    return time.monotonic() - begin_s


def left_behind(pod: Pod) -> list[str]:
    """Return the sockets, and the names in shared memory, that the agent has not removed."""
    found = [f"{volume}/{name}" for volume, name in SOCKETS if _is_there(pod, volume, name)]
    return found + [f"/dev/shm/{name}" for name in pod.shared_memory()]


def _is_there(pod: Pod, volume: str, name: str) -> bool:
    place = pod.volume(volume)
    return place.is_dir() and (place / name).exists()
