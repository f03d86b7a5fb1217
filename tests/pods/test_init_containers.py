"""The init containers of every rendered workload: the capture is set up, set up again, and looked at."""

import subprocess
from pathlib import Path

import pytest

from tests.support.pod import Container, Pod, extract, has, pod_names, pod_on_node

pytestmark = [pytest.mark.root, pytest.mark.slow]
TIME_S = 30.0


def rules(pod: Pod) -> str:
    """Return everything that captures traffic in the pod, without the counters."""
    inside = ["nsenter", f"--net=/proc/{pod.sandbox.pid}/ns/net"]
    found = ""
    for command in (["iptables-save"], ["ip6tables-save"], ["nft", "-s", "list", "ruleset"], ["ip", "rule"]):
        said = subprocess.run([*inside, *command], capture_output=True, text=True, check=True).stdout
        found += "".join(f"{line}\n" for line in said.splitlines() if not line.startswith(("#", ":")))
    return found


@pytest.mark.parametrize("name", [name for name in pod_names() if has(name, "istio-init")])
def test_istio_init_sets_up_the_capture_and_may_run_again(name: str, workdir: Path) -> None:
    with pod_on_node(name, workdir) as pod:
        before = rules(pod)
        first = pod.start("istio-init")
        assert first.wait(TIME_S) == 0, first.log()
        captured = rules(pod)
        assert captured != before
        assert "15006" in captured
        again = pod.start("istio-init")
        assert again.wait(TIME_S) == 0, again.log()
        assert rules(pod) == captured


@pytest.mark.parametrize("name", [name for name in pod_names() if has(name, "istio-validation")])
def test_istio_validation_says_126_until_the_cni_plugin_has_set_up_the_capture(
    name: str, workdir: Path
) -> None:
    with pod_on_node(name, workdir) as pod:
        too_early = pod.start("istio-validation")
        assert too_early.wait(TIME_S) == 126, too_early.log()
        plugin = as_the_cni_plugin(pod)
        assert plugin.wait(TIME_S) == 0, plugin.log()
        validation = pod.start("istio-validation")
        assert validation.wait(TIME_S) == 0, validation.log()


def as_the_cni_plugin(pod: Pod) -> Container:
    """Make the rules that the validation looks for, with what the plugin has and the container has not."""
    found = extract(pod.name, "istio-validation")["example"]
    left_out = ("--run-validation", "--skip-rule-apply")
    container = Container(
        pod,
        "cni",
        argv=[word for word in found["argv"] if word not in left_out],
        environ={"PATH": pod.root.path, **found["environ"]},
        security={"runAsUser": 0, "runAsGroup": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        volumes={},
    )
    pod.containers.append(container)
    return container
