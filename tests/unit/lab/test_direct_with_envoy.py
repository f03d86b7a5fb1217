"""A real Envoy accepts everything the lab tells it, and the lab's world carries requests over mTLS."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.authority import Authority
from lab.bookinfo import Bookinfo
from lab.direct import Direct
from lab.mesh import load_mesh
from lab.replay import Variant, on_other_ports, recorded_snapshot
from lab.snapshot import CDS, EDS, LDS, RDS, SDS
from tests.support.real_envoy import PortMap, RealEnvoy, get, replace_ports
from tests.support.waiting import wait_for

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings"
XDS, SDS_SOCKET = Path("etc/istio/proxy/XDS"), Path("var/run/secrets/workload-spiffe-uds/socket")

pytestmark = pytest.mark.envoy


@pytest.fixture
def workdir() -> Iterator[Path]:
    """A directory with a short path: a Unix socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lab-") as directory:
        yield Path(directory)


def recorded_bootstrap(role: str, variant: Variant, ports: PortMap) -> Any:
    document = json.loads((RECORDINGS / f"{role}.envoy-rev.json").read_text())
    document["admin"].pop("profile_path")
    document["dynamic_resources"]["ads_config"]["api_type"] = "GRPC" if variant == "sotw" else "DELTA_GRPC"
    return replace_ports(document, ports)


def accepted_and_rejected(envoy: RealEnvoy) -> tuple[dict[str, int], dict[str, int]]:
    config = r"(cds|lds|rds\..*|sds\..*|eds|http\..*)\.update_"
    success = envoy.stats(config + "success")
    rejected = envoy.stats(config + "rejected|init_fetch_timeout|listener_manager.listener_create_failure")
    return success, {name: count for name, count in rejected.items() if count}


@pytest.mark.parametrize("variant", ["sotw", "delta"])
@pytest.mark.parametrize("role", ["sidecar", "router"])
def test_envoy_accepts_all_that_istiod_was_recorded_to_say(
    role: str, variant: Variant, workdir: Path
) -> None:
    ports, authority = PortMap(), Authority()
    world = on_other_ports(recorded_snapshot(RECORDINGS, role, variant), ports)
    identity = authority.issue("spiffe://cluster.local/ns/default/sa/bookinfo-productpage")
    direct = Direct(
        world,
        xds=workdir / XDS,
        sds=workdir / SDS_SOCKET,
        identity=identity,
        root_pem=authority.root_pem,
    )
    with direct, RealEnvoy(workdir, recorded_bootstrap(role, variant, ports)) as envoy:
        direct.observed_sds.wait_until(lambda seen: seen.acks(SDS) >= 2)
        direct.observed.wait_until(lambda seen: all(seen.acks(kind) for kind in (CDS, EDS, LDS, RDS)))
        envoy.wait_live()

        assert direct.observed.nack_messages() == direct.observed_sds.nack_messages() == []
        success, rejected = accepted_and_rejected(envoy)
        assert rejected == {}
        assert success["cluster_manager.cds.update_success"] == 1
        assert success["listener_manager.lds.update_success"] == 1
        listeners = {line.partition("::")[0] for line in envoy.admin("/listeners").splitlines()}
        recorded = world_names(role, variant)
        assert recorded <= listeners


def world_names(role: str, variant: Variant) -> set[str]:
    return set(recorded_snapshot(RECORDINGS, role, variant).of_type(LDS))


def test_a_request_goes_through_gateway_and_sidecar_over_mtls_and_reviews_are_split(workdir: Path) -> None:
    authority, mesh = Authority(), load_mesh().with_ports(PortMap())
    sidecar, router = workdir / "sidecar", workdir / "router"
    accounts = {sidecar: "bookinfo-apps", router: "istio-ingressgateway"}
    directs, envoys = [], []
    for directory, account in accounts.items():
        directory.mkdir()
        bootstrap = recorded_bootstrap(directory.name, "delta", PortMap())
        direct = Direct(
            mesh,
            xds=directory / XDS,
            sds=directory / SDS_SOCKET,
            identity=authority.issue(mesh.spiffe_id(account)),
            root_pem=authority.root_pem,
        )
        directs.append(direct)
        envoys.append(RealEnvoy(directory, bootstrap))
    with Bookinfo(mesh), directs[0], directs[1], envoys[0], envoys[1]:
        for envoy in envoys:
            envoy.wait_live()
        gateway = mesh.gateway.listen.port
        headers, page = wait_for(lambda: get(gateway, "/productpage"), what="the first page")

        assert "The Comedy of Errors" in page
        assert headers["x-served-by"] == "productpage-v1"
        assert headers["x-caller"] == "spiffe://cluster.local/ns/default/sa/istio-ingressgateway"

        path = "/api/v1/products/0/reviews"
        served = Counter(json.loads(get(gateway, path)[1])["podname"] for _ in range(60))
        assert set(served) == {"reviews-v1", "reviews-v3"}
        assert all(10 <= count <= 50 for count in served.values())  # 50/50; below 10 is one in 10^8

        for direct in directs:
            direct.push(mesh.with_split("reviews", {"v2": 100}))
        wait_for(
            lambda: {json.loads(get(gateway, path)[1])["podname"] for _ in range(5)} == {"reviews-v2"},
            what="the pushed weights being in force",
        )
        for direct, envoy in zip(directs, envoys, strict=True):
            assert direct.observed.nack_messages() == []
            assert accepted_and_rejected(envoy)[1] == {}
