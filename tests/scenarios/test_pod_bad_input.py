"""What is wrong with a pod's volumes, or who else is in it: one line, 255, nothing of another is touched."""

import os
import socket
from pathlib import Path

import pytest

from tests.support.pod import Container, Pod
from tests.support.pod_life import provisioned, wait_ready
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.envoy, pytest.mark.root]


def ended(proxy: Container) -> str:
    """Return the one line that tells why it ended."""
    assert proxy.wait(15.0) == 255, proxy.log()
    (told,) = [line for line in proxy.log().splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in proxy.log()
    return told


def test_volumes_that_are_missing_or_read_only_end_it_with_a_line_that_names_the_place(workdir: Path) -> None:
    with provisioned("sidecar-classic", workdir) as (pod, _):
        assert "etc/istio/proxy" in ended(pod.start(without_volumes=("istio-envoy",)))
        assert "etc/istio/proxy" in ended(pod.start(read_only_volumes=("istio-envoy",)))
        no_root = ended(pod.start(without_volumes=("istiod-ca-cert", "istio-ca-crl")))
        assert no_root.endswith("root CA file for CA does not exist var/run/secrets/istio/root-cert.pem")


def test_a_full_volume_is_told_and_the_container_lives_as_soon_as_there_is_room(workdir: Path) -> None:
    with provisioned("sidecar-classic", workdir, sizes={"istio-envoy": "1m"}) as (pod, _):
        stuffing = pod.volume("istio-envoy") / "stuffing"
        with stuffing.open("wb") as file:
            while True:
                try:
                    os.write(file.fileno(), b"x" * 4096)
                except OSError:
                    break
        assert "no space left on device" in ended(pod.start()).lower()
        stuffing.unlink()
        wait_ready(pod, pod.start())


def test_sockets_and_files_of_another_user_are_replaced_where_the_volume_allows_it(workdir: Path) -> None:
    with provisioned("sidecar-classic", workdir) as (pod, _):
        for volume, name in (
            ("istio-envoy", "XDS"),
            ("workload-socket", "socket.12"),
            ("istio-envoy", "envoy-rev0.json"),
        ):
            file = pod.volume(volume) / name
            file.write_text("of another life, as another user")
            os.chown(file, 4000, 4000)
            file.chmod(0o600)
        wait_ready(pod, pod.start())


def test_a_socket_of_another_user_that_cannot_be_replaced_ends_it_and_stays(workdir: Path) -> None:
    with provisioned("sidecar-classic", workdir) as (pod, _):
        volume = pod.volume("istio-envoy")
        taken = volume / "XDS"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(taken))
            other.listen()
            os.chown(taken, 4000, 4000)
            volume.chmod(0o1777)  # sticky: only its owner may replace it
            before = taken.lstat()
            told = ended(pod.start())
            assert told.endswith("cannot put socket etc/istio/proxy/XDS in place: Operation not permitted")
            assert taken.lstat() == before


def test_a_second_agent_in_the_pod_ends_and_leaves_the_first_alone(workdir: Path) -> None:
    with provisioned("sidecar-classic", workdir) as (pod, _):
        first = pod.start()
        wait_ready(pod, first)
        wait_for((pod.volume("istio-envoy") / "identity.kept").exists, what="its last file")
        before = places(pod)
        status, said = first.execute("pilot-agent", "proxy", "sidecar")
        assert status == 255
        assert "Error: another pilot-agent runs with etc/istio/proxy already" in said
        assert places(pod) == before
        wait_ready(pod, first)
        first.kill()
        wait_ready(pod, pod.start())  # the lock went with it


def places(pod: Pod) -> dict[str, int]:
    """Return the inodes of all that the first agent has made."""
    volumes = [pod.volume("istio-envoy"), pod.volume("workload-socket")]
    return {str(path): path.lstat().st_ino for volume in volumes for path in volume.iterdir()}
