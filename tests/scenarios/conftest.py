"""The lab's world around one or two real agents, each with a real Envoy."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.bookinfo import Bookinfo
from lab.istiod import Istiod
from lab.mesh import Mesh, load_mesh
from tests.support.agent import RealAgent, short_directory
from tests.support.real_envoy import PortMap

ISTIOD_SAN = {"ISTIOD_SAN": "istiod.istio-system.svc"}


@dataclass(frozen=True)
class World:
    """Gateway → mTLS → sidecar → applications; `sidecar` is the agent under test."""

    mesh: Mesh
    istiod: Istiod
    sidecar: RealAgent
    router: RealAgent

    @property
    def port(self) -> int:
        return self.mesh.gateway.listen.port


@pytest.fixture
def workdir() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


@pytest.fixture
def mesh() -> Mesh:
    return load_mesh().with_ports(PortMap())


@pytest.fixture
def istiod(mesh: Mesh) -> Iterator[Istiod]:
    with Istiod(mesh) as istiod:
        yield istiod


def agent_for(istiod: Istiod, directory: Path, role: str = "sidecar", **more: object) -> RealAgent:
    """Return an agent that is provisioned like a pod and not started yet."""
    account = "bookinfo-apps" if role == "sidecar" else "istio-ingressgateway"
    directory.mkdir(parents=True, exist_ok=True)
    istiod.provision(directory, "default", account)
    environment = ISTIOD_SAN | dict(more.pop("environment", {}))  # type: ignore[call-overload]
    return RealAgent(
        directory,
        discovery=istiod.address,
        role=role,
        account=account,
        environment=environment,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def world(workdir: Path, mesh: Mesh, istiod: Istiod) -> Iterator[World]:
    with ExitStack() as stack:
        stack.enter_context(Bookinfo(mesh))
        sidecar = stack.enter_context(agent_for(istiod, workdir / "sidecar"))
        router = stack.enter_context(agent_for(istiod, workdir / "router", "router"))
        yield World(mesh, istiod, sidecar.wait_ready(), router.wait_ready())
