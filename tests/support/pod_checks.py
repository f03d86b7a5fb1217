"""What is true of every injected proxy, checked in one pod from its start over a restart to its end."""

import re
import time
from pathlib import Path
from typing import Any

import psutil

from tests.support.pod import Container, Pod, extract, memory_limit_bytes
from tests.support.pod_life import (
    ENVOY_READY,
    Beside,
    end,
    hook,
    left_behind,
    probe_timeout_s,
    provisioned,
    readiness_port,
    wait_ready,
)


def lives_and_dies_as_kubernetes_wants(name: str, directory: Path, **more: Any) -> None:  # what Pod takes
    """Start, probe, kill, start again over what was left, run the hooks, end.

    The killed container stands for one that was out of memory: Kubernetes starts another over the same
    volumes, with stale sockets and files in them.
    """
    with provisioned(name, directory, **more) as (pod, _):
        first = pod.start()
        post_start = Beside(first, hook(name, "postStart")) if hook(name, "postStart") else None
        wait_ready(pod, first)
        if post_start is not None:
            status, said = post_start.result()
            assert status == 0, said
        _is_confined(pod, first)
        first.kill()

        again = pod.start()
        wait_ready(pod, again)
        assert "Traceback" not in again.log()
        _probes_are_answered_in_time(pod)
        if command := hook(name, "preStop"):
            status, said = again.execute(*command)
            assert (status, said) == (0, "OK\n" if "drain" in command else ""), said
        end(pod, again)
        assert left_behind(pod) == []
        assert "Traceback" not in again.log()
        assert not re.search(r"\t(warn|error)\t(actor |supervisor)", again.log())  # nobody died or hung


def _is_confined(pod: Pod, proxy: Container) -> None:
    security = extract(pod.name)["securityContext"] or {"runAsUser": 0, "runAsGroup": 0}
    wanted = (security["runAsUser"], security["runAsGroup"])
    for process in proxy.processes():
        if (found := _identity(process)) is not None:
            assert found == wanted, f"{process.name()}: {found}"
    assert pod.memory.peak_bytes() < memory_limit_bytes(pod.name)


def _identity(process: psutil.Process) -> tuple[int, int] | None:
    try:
        return process.uids().real, process.gids().real
    except psutil.NoSuchProcess:
        return None


def _probes_are_answered_in_time(pod: Pod) -> None:
    port, timeout_s = readiness_port(pod.name), probe_timeout_s(pod.name)
    for _ in range(5):
        begin_s = time.monotonic()
        assert pod.node.probe(port, "/healthz/ready", timeout_s) == 200
        assert time.monotonic() - begin_s < timeout_s
    if port == ENVOY_READY:
        assert pod.node.probe(15090, "/stats/prometheus", 5.0) == 200
