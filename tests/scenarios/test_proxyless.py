"""gRPC applications without an Envoy: the bootstrap file, the agent's socket, and certificates as files."""

import json
import os
import signal
import stat
from pathlib import Path

import pytest
from cryptography import x509

from lab.authority import Authority
from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.resources import world_of
from lab.snapshot import NodeInfo, Snapshot, World
from tests.scenarios.conftest import agent_for
from tests.support.agent import RealAgent, stack
from tests.support.mounted import publish_files
from tests.support.proxyless import ProxylessClient, echo_service, echo_snapshot
from tests.support.real_envoy import get
from tests.support.status_client import get as ask_status
from tests.support.waiting import wait_for

BOOTSTRAP = "etc/istio/proxy/grpc-bootstrap.json"


def with_echo(mesh: Mesh, echo: Snapshot) -> World:
    """Return the mesh's world, in which nodes that speak gRPC themselves see the echo service alone."""

    def world(node: NodeInfo) -> Snapshot:
        return echo if node.metadata.get("GENERATOR") == "grpc" else world_of(mesh)(node)

    return world


@pytest.fixture
def agent(workdir: Path, istiod: Istiod) -> RealAgent:
    """An agent without Envoy, not started. Its directory is not `/`, hence the absolute path."""
    return agent_for(
        istiod,
        workdir,
        environment={"DISABLE_ENVOY": "true", "OUTPUT_CERTS": str(certificates(workdir))},
        proxy_config={"configPath": str(workdir / "etc/istio/proxy")},
    )


def certificates(workdir: Path) -> Path:
    directory = workdir / "var/lib/istio/data"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def post(agent: RealAgent, command: str) -> bytes:
    """Return the answer, which the reference does not give where there is no Envoy."""
    found = ask_status(
        agent.status_port, f"/{command}", "Content-Length: 0", "Connection: close", method="POST"
    )
    assert found.status == 200
    return found.body


def ready(agent: RealAgent) -> RealAgent:
    def asked() -> bool:
        get(agent.status_port, "/healthz/ready")
        return True

    wait_for(asked, within_s=20, what="readiness on the agent's own port")
    return agent


def serial(path: Path) -> str:
    return f"{x509.load_pem_x509_certificate(path.read_bytes()).serial_number:x}"


def test_a_grpc_client_resolves_and_calls_through_the_generated_file_and_the_agents_socket(
    agent: RealAgent, workdir: Path, mesh: Mesh, istiod: Istiod
) -> None:
    with echo_service() as port, echo_service() as other, agent:
        istiod.push(with_echo(mesh, echo_snapshot(port)))
        ready(agent)
        with ProxylessClient(workdir / BOOTSTRAP) as client:
            assert client.ask("hello") == {"question": "hello", "client": ""}
            for role in ("downstream-xds", "upstream-xds"):
                old = agent.actor_pid(role)
                os.kill(old, signal.SIGKILL)
                wait_for(lambda role=role, old=old: agent.actor(role) not in (None, old), what=role)  # type: ignore[misc]
                assert client.ask(role)["question"] == role
            istiod.push(with_echo(mesh, echo_snapshot(other)))
            seen = wait_for(
                lambda: istiod.observed.acks("type.googleapis.com/envoy.config.listener.v3.Listener")
            )
            assert seen
            assert client.ask("again")["question"] == "again"


def test_the_file_and_the_processes_are_as_the_reference_has_them(agent: RealAgent, workdir: Path) -> None:
    with agent:
        ready(agent)
        path = workdir / BOOTSTRAP
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        document = json.loads(path.read_bytes())
        assert document["xds_servers"][0]["server_uri"] == f"unix:///{workdir}/etc/istio/proxy/XDS"
        assert document["node"]["id"].startswith("sidecar~127.0.0.1~sidecar-1.default~")
        assert document["node"]["metadata"]["GENERATOR"] == "grpc"
        assert document["node"]["metadata"]["CLUSTER_ID"] == "Kubernetes"
        assert agent.envoys() == []
        assert agent.actor("sds") is None
        assert not (workdir / "var/run/secrets/workload-spiffe-uds/socket").exists()
        assert not list((workdir / "etc/istio/proxy").glob("envoy-rev*"))
        names = {found.name for found in certificates(workdir).iterdir()}
        assert names >= {"key.pem", "cert-chain.pem", "root-cert.pem"}
        assert post(agent, "drain") == b"OK"
        ready(agent)
        assert post(agent, "quitquitquit") == b"OK"
        assert agent.process is not None
        assert agent.process.wait(20) == 0
        assert stack(agent) == ""


def test_an_empty_variable_gives_no_file_and_an_agent_with_envoy_writes_one_too(
    workdir: Path, istiod: Istiod
) -> None:
    with agent_for(istiod, workdir / "a", environment={"GRPC_XDS_BOOTSTRAP": ""}) as without:
        without.wait_ready()
        assert not (workdir / "a" / BOOTSTRAP).exists()
    with agent_for(istiod, workdir / "b") as with_envoy:
        with_envoy.wait_ready()
        assert (workdir / "b" / BOOTSTRAP).exists()


def test_mtls_uses_the_certificates_in_output_certs_which_follow_every_rotation(
    agent: RealAgent, workdir: Path, mesh: Mesh, istiod: Istiod
) -> None:
    istiod.faults.certificate_ttl_s = 8  # due after half of it
    chain = certificates(workdir) / "cert-chain.pem"
    with echo_service(istiod.authority) as port:
        istiod.push(with_echo(mesh, echo_snapshot(port, mtls=True)))
        with agent:
            ready(agent)
            seen: list[str] = []
            for _ in range(3):
                wait_for(lambda: serial(chain) not in seen, within_s=20, what="the next certificate")
                seen.append(serial(chain))
                with ProxylessClient(workdir / BOOTSTRAP, mtls=True) as client:
                    answer = client.ask("who am I?")
                assert answer.get("client") in (seen[-1], serial(chain)), answer
            assert len(set(seen)) == 3
            key = certificates(workdir) / "key.pem"
            assert b"PRIVATE KEY" in key.read_bytes()


MOUNTED = "var/run/secrets/workload-spiffe-credentials"


def mount(workdir: Path, authority: Authority, number: int) -> str:
    """Publish an identity in the pod's volume; return the serial number of its certificate."""
    pair = authority.issue("spiffe://cluster.local/ns/default/sa/bookinfo-apps", "client")
    key, chain = pair.private_key_pem.decode(), pair.certificate_chain_pem.decode()
    publish_files(workdir / MOUNTED, number, key=key, chain=chain, roots=authority.root_pem)
    return serial(workdir / MOUNTED / "cert-chain.pem")


def test_mounted_certificates_reach_the_grpc_client_through_output_certs_at_every_publication(
    agent: RealAgent, workdir: Path, mesh: Mesh, istiod: Istiod
) -> None:
    agent.environment["XDS_ROOT_CA"] = "var/run/secrets/istio/root-cert.pem"
    newest = mount(workdir, istiod.authority, 0)
    output = certificates(workdir)
    with echo_service(istiod.authority) as port:
        istiod.push(with_echo(mesh, echo_snapshot(port, mtls=True)))
        with agent:
            ready(agent)
            for number in range(3):
                if number:
                    newest = mount(workdir, istiod.authority, number)
                wait_for(lambda newest=newest: serial(output / "cert-chain.pem") == newest, what="the files")  # type: ignore[misc]
                for name in ("key.pem", "cert-chain.pem", "root-cert.pem"):
                    expected = (workdir / MOUNTED / name).read_text().strip()
                    assert (output / name).read_text().strip() == expected
                with ProxylessClient(workdir / BOOTSTRAP, mtls=True) as client:
                    assert client.ask("who am I?").get("client") == newest
            assert istiod.observed.counts["csr", "signed"] == 0
            assert stack(agent) == ""


def test_a_file_that_cannot_be_written_ends_the_agent_with_one_line(workdir: Path, istiod: Istiod) -> None:
    (workdir / "file").write_text("")
    path = workdir / "file" / "grpc-bootstrap.json"
    agent = agent_for(
        istiod, workdir, environment={"DISABLE_ENVOY": "true", "GRPC_XDS_BOOTSTRAP": str(path)}
    ).start()
    assert agent.process is not None
    assert agent.process.wait(20) == 255
    assert f"Error: failed generating gRPC XDS bootstrap: failed writing to {path}: " in agent.log()
    assert stack(agent) == ""
