"""One native sidecar's pod, step by step as the kubelet does it, with traffic through the captured ports."""

import http.client
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.http_peer import HttpPeer, reply
from tests.support.pod import CONTROL_PLANE, POD_IP, Container, Pod
from tests.support.pod_life import end, hook, left_behind, provisioned, wait_ready
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.envoy, pytest.mark.root]

APPLICATION, ELSEWHERE = 9080, 8000
THROUGH_INBOUND = "127.0.0.6"
"""From where the sidecar connects to the application."""


def ask(pod: Pod, port: int) -> str:
    """Ask the pod from another machine."""
    status, body = pod.node.get(port, "/")
    assert status == 200, body
    return body


def asked_by_the_application(pod: Pod) -> str:
    """Have a process in the pod that is not the proxy ask a server somewhere else."""
    address = (CONTROL_PLANE, ELSEWHERE)
    connection = http.client.HTTPConnection(*address, timeout=5)
    connection.sock = pod.sandbox.within(lambda: socket.create_connection(address, 5))
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def leave_an_orphan(proxy: Container) -> None:
    """Run a command whose child outlives it: it falls to process 1, which must reap it."""
    status, said = proxy.execute("/bin/sh", "-c", "sleep 0.3 & echo $!")
    assert status == 0, said
    assert "sleep" in children(proxy)
    wait_for(lambda: "sleep" not in children(proxy), what="the orphan being reaped")


def children(proxy: Container) -> set[str]:
    """Return the names of all children of process 1, dead ones that nobody has reaped among them."""
    names = set()
    for pid in Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            names.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return names


def test_a_native_sidecar_serves_its_pod_from_the_init_container_to_the_end(workdir: Path) -> None:
    with provisioned("sidecar-native", workdir) as (pod, _):
        init = pod.start("istio-init")
        assert init.wait(20.0) == 0, init.log()

        proxy = pod.start("istio-proxy")
        wait_ready(pod, proxy)  # the startup probe holds all other containers back
        leave_an_orphan(proxy)

        def serve() -> HttpPeer:
            return HttpPeer(lambda _: reply("200 OK", b"ratings"), host="0.0.0.0", port=APPLICATION)

        def serve_elsewhere() -> HttpPeer:
            return HttpPeer(lambda _: reply("200 OK", b"elsewhere"), host=CONTROL_PLANE, port=ELSEWHERE)

        with pod.sandbox.within(serve) as application, pod.node.sandbox.within(serve_elsewhere) as elsewhere:
            assert ask(pod, APPLICATION) == "ratings"
            assert set(application.peers) == {THROUGH_INBOUND}  # so it came through Envoy
            assert asked_by_the_application(pod) == "elsewhere"
            assert elsewhere.peers == [POD_IP]
            connections = proxy.execute("pilot-agent", "request", "GET", "clusters")[1]
            assert f"PassthroughCluster::{CONTROL_PLANE}:{ELSEWHERE}::cx_total::1" in connections
            for _ in range(5):
                assert pod.node.probe(15021, "/healthz/ready", 1.0) == 200

            status, said = proxy.execute(*hook(pod.name, "preStop"))
            assert status == 0, said
            assert ask(pod, APPLICATION) == "ratings"  # what is on its way still arrives
        # The application has gone; only now the kubelet tells the sidecar.
        assert proxy.is_running()
        end(pod, proxy)
        assert left_behind(pod) == []


def test_a_second_sigterm_and_a_late_hook_change_nothing(workdir: Path) -> None:
    with provisioned("sidecar-native", workdir) as (pod, _):
        proxy = pod.start("istio-proxy")
        wait_ready(pod, proxy)
        proxy.signal(signal.SIGTERM)
        proxy.signal(signal.SIGTERM)
        proxy.execute(*hook(pod.name, "preStop"))
        assert proxy.wait(30.0) == 0, proxy.log()
        assert left_behind(pod) == []
