"""A whole small mesh in network namespaces: two pods with captured traffic, a gateway, a control plane."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.bookinfo import Bookinfo
from lab.mesh import Address, Mesh
from tests.scenarios.conftest import ISTIOD_SAN
from tests.support.agent import REPOSITORY, RealAgent, short_directory
from tests.support.captured_mesh import applications_of, captured_mesh
from tests.support.cli import PROGRAM
from tests.support.netns import Pod, Wire, require_network_namespaces

PROXY = 1337
GATEWAY_ID = "spiffe://cluster.local/ns/default/sa/istio-ingressgateway"
SIDECAR_ID = "spiffe://cluster.local/ns/default/sa/bookinfo-apps"
INJECTED = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*")
ARRIVALS = ("downstream_cx_total", "no_filter_chain_match")  # the second are refused at once
EXCLUDED = ("-d", "15090,15021,15020")


@dataclass(frozen=True)
class CapturedMesh:
    mesh: Mesh
    client: Pod
    pods: dict[str, Pod]
    agents: dict[str, RealAgent]

    @property
    def url(self) -> str:
        return f"http://{self.mesh.gateway.listen}"

    def curl(self, url: str, *words: str) -> str:
        return self.client.run("curl", "-sS", "--max-time", "10", *words, url).stdout

    def arrived(self, name: str) -> dict[str, int]:
        """Return how many connections came in at the two captured ports of a pod's Envoy."""
        with self.pods[name].entered():
            found = self.agents[name].stats(f"^listener.virtual.*({'|'.join(ARRIVALS)})$")
        ports = ("virtualInbound", "virtualOutbound")
        return {port: sum(found[f"listener.{port}.{kind}"] for kind in ARRIVALS) for port in ports}


@pytest.fixture(scope="module")
def captured() -> Iterator[CapturedMesh]:
    require_network_namespaces("iptables", "setpriv", "curl")
    with ExitStack() as stack:
        workdir = stack.enter_context(short_directory())
        workdir.chmod(0o755)
        wire = stack.enter_context(Wire())
        client, control, gateway = wire.pod("client", 2), wire.pod("control", 10), wire.pod("gateway", 20)
        pods = {"front": wire.pod("front", 31), "back": wire.pod("back", 32)}
        placed = {
            place: Address(pods[pod].ipv4, port)
            for place, pod, port in (
                (("productpage", "v1"), "front", 9081),
                (("reviews", "v1"), "front", 9084),
                (("reviews", "v3"), "back", 9086),
                (("ratings", "v1"), "back", 9083),
                (("details", "v1"), "back", 9082),
            )
        }
        mesh = captured_mesh(gateway.ipv4, placed)
        accounts = {workdir / "gateway": "istio-ingressgateway"} | {
            workdir / name: "bookinfo-apps" for name in pods
        }
        stack.enter_context(control_plane(control, gateway, placed, accounts))
        for pod in pods.values():
            with pod.entered():
                stack.enter_context(Bookinfo(applications_of(mesh, pod.ipv4)))
            capture(pod, *INJECTED, *EXCLUDED)
        proxies = pods | {"gateway": gateway}
        agents = {
            directory.name: stack.enter_context(
                agent_in(proxies[directory.name], control, directory, account)
            )
            for directory, account in accounts.items()
        }
        for name, agent in agents.items():
            with proxies[name].entered():
                agent.wait_ready()
        yield CapturedMesh(mesh, client, pods, agents)


@contextmanager
def control_plane(
    control: Pod, gateway: Pod, placed: Mapping[tuple[str, str], Address], accounts: Mapping[Path, str]
) -> Iterator[None]:
    """Run the lab's istiod in a pod; it provisions the agents' directories before it is up."""
    places = [[*names, place.host, place.port] for names, place in placed.items()]
    directories = {str(directory): account for directory, account in accounts.items()}
    words = (control.ipv4, gateway.ipv4, json.dumps(places), json.dumps(directories))
    with subprocess.Popen(
        [*control.prefix(), sys.executable, "-m", "tests.support.captured_mesh", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield
        process.kill()


def agent_in(pod: Pod, control: Pod, directory: Path, account: str) -> RealAgent:
    """Return an agent that runs in a pod as the proxy's user."""
    agent = RealAgent(
        directory,
        discovery=f"{control.ipv4}:15012",
        role="router" if pod.name == "gateway" else "sidecar",
        account=account,
        environment=ISTIOD_SAN | {"INSTANCE_IP": pod.ipv4, "POD_NAME": pod.name},
        proxy_config={"proxyStatsMatcher": {"inclusionPrefixes": ["listener.virtual"]}},
        prefix=pod.prefix(uid=PROXY, gid=PROXY),
    )
    for path in (directory, *directory.rglob("*")):
        os.chown(path, PROXY, PROXY)
    return agent


def capture(pod: Pod, *words: str) -> None:
    pod.run(sys.executable, str(PROGRAM), "istio-iptables", *words, environment=dict(os.environ))


@pytest.mark.root
@pytest.mark.envoy
@pytest.mark.slow
def test_requests_cross_the_mesh_through_captured_ports_with_mtls_between(captured: CapturedMesh) -> None:
    before = {name: captured.arrived(name) for name in captured.pods}

    pages = [captured.curl(f"{captured.url}/productpage") for _ in range(30)]
    seen = Counter(version for page in pages for version in ("reviews-v1", "reviews-v3") if version in page)
    assert set(seen) == {"reviews-v1", "reviews-v3"}
    assert sum(seen.values()) == len(pages)

    for name in captured.pods:
        now = captured.arrived(name)
        assert now["virtualInbound"] > before[name]["virtualInbound"]
    assert captured.arrived("front")["virtualOutbound"] > before["front"]["virtualOutbound"]

    # The gateway shows its own identity, and a captured call of an application its pod's.
    heads = [captured.curl(f"{captured.url}/reviews/0", "-D", "-", "-o", "/dev/null") for _ in range(10)]
    assert all(f"x-caller: {GATEWAY_ID}" in head for head in heads)
    assert {
        version for head in heads for version in ("v1", "v3") if f"x-served-by: reviews-{version}" in head
    }
    front = captured.pods["front"]
    url = f"http://{captured.mesh.outbound}/reviews/0"
    words = ("curl", "-sS", "-D", "-", "-o", "/dev/null", "-H", "Host: reviews", url)
    assert f"x-caller: {SIDECAR_ID}" in front.run(*words).stdout


@pytest.mark.root
@pytest.mark.envoy
@pytest.mark.slow
def test_plain_text_reaches_an_application_only_when_the_rules_are_gone(captured: CapturedMesh) -> None:
    back = captured.pods["back"]
    url = f"http://{back.ipv4}:9083/ratings/0"

    refused = captured.client.run("curl", "-sS", "--max-time", "10", url, check=False)
    assert refused.returncode != 0  # captured, and Envoy takes mTLS alone
    assert captured.arrived("back")["virtualInbound"] > 0

    capture(back, "--cleanup-only")
    count = captured.arrived("back")["virtualInbound"]
    assert '"Reviewer1": 5' in captured.curl(url)
    assert captured.arrived("back")["virtualInbound"] == count

    capture(back, *INJECTED, *EXCLUDED)
    refused = captured.client.run("curl", "-sS", "--max-time", "10", url, check=False)
    assert refused.returncode != 0
    nobody = back.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://10.96.0.1:9999/")
    assert nobody.stdout == "502"  # an address that nobody has: captured all the same, and refused by Envoy
