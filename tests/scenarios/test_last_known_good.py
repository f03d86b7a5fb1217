"""A container restarts while istiod is down: Envoy serves what it had accepted before."""

import json
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.bookinfo import Bookinfo
from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.snapshot import CDS
from tests.scenarios.conftest import agent_for
from tests.support.agent import RealAgent
from tests.support.real_envoy import get
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy
STORE = "var/lib/istio/data/xds-last-known-good"


class Site:
    """A gateway with an identity from files, and behind it a sidecar that stays as it is."""

    def __init__(self, stack: ExitStack, directory: Path, mesh: Mesh, istiod: Istiod) -> None:
        self._stack, self._directory, self.mesh, self.istiod = stack, directory, mesh, istiod
        stack.enter_context(Bookinfo(mesh))
        stack.enter_context(agent_for(istiod, directory / "sidecar")).wait_ready()
        self.router = agent_for(istiod, directory / "router", "router")

    def router_of(self, variant: str, **environment: str) -> RealAgent:
        """Return the gateway's next life, in the directory of the one before."""
        common = {"ISTIO_DELTA_XDS": str(variant == "delta").lower()}
        self.router = agent_for(
            self.istiod, self._directory / "router", "router", environment=common | environment
        )
        place_identity(self.istiod, self.router.directory)
        return self.router

    def serves(self) -> bool:
        try:
            return "The Comedy of Errors" in get(self.mesh.gateway.listen.port, "/productpage")[1]
        except OSError:
            return False


def place_identity(istiod: Istiod, directory: Path) -> None:
    pair = istiod.authority.issue("spiffe://cluster.local/ns/default/sa/istio-ingressgateway")
    certs = directory / "etc/certs"
    certs.mkdir(parents=True, exist_ok=True)
    (certs / "cert-chain.pem").write_bytes(pair.certificate_chain_pem)
    (certs / "key.pem").write_bytes(pair.private_key_pem)
    (certs / "root-cert.pem").write_text(istiod.root_pem)


@pytest.fixture
def site(workdir: Path, mesh: Mesh, istiod: Istiod) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, workdir, mesh, istiod)


def first_life(site: Site, variant: str) -> float:
    """Let the gateway accept everything and be killed; return how long it took to serve, in seconds."""
    began_s = time.monotonic()
    with site.router_of(variant) as router:
        router.wait_ready()
        wait_for(site.serves, what="a request through the gateway")
        took_s = time.monotonic() - began_s
        files = router.directory / STORE
        wait_for(lambda: len(list(files.glob("*.xlkg"))) >= 4, what="CDS, EDS, LDS and RDS on the disk")
        assert stat.S_IMODE(files.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in files.iterdir()} == {0o600}
        assert not any(b"PRIVATE KEY" in path.read_bytes() for path in files.iterdir())
    return took_s


@pytest.mark.parametrize("variant", ["delta", "sotw"])
def test_a_restarted_gateway_serves_while_istiod_is_down_and_goes_on_when_it_is_back(
    site: Site, variant: str, record_property: Callable[[str, object], None]
) -> None:
    usual_s = first_life(site, variant)
    site.istiod.quit()
    router = site.router_of(variant)
    began_s = time.monotonic()
    with router:
        wait_for(site.serves, within_s=10, what="a request through the gateway")
        took_s = time.monotonic() - began_s
        wait_for(router.is_ready, what="readiness")
        assert took_s < max(3.0, usual_s + 2.0)  # 3 s; a machine that is busy otherwise needs more for both
        record_property("served_s", f"{took_s:.2f}, with istiod {usual_s:.2f}")
        router.wait_log("the XDS server cannot be reached: serving the last known good configuration")
        told = json.loads(get(router.status_port, "/debug/xds")[1])
        assert [one["source"] for one in told] == ["last known good"]
        assert {one["type_url"]: one["state"] for one in told[0]["types"]}[CDS] == "stale"
        wait_for(lambda: metric(router, 'responses{type="CDS"} 1'), what="the count of stale responses")
        assert metric(router, "serving 1")

        before = router.stats("xds-grpc.*upstream_(rq_total|cx_total)")
        site.istiod.push(site.mesh.with_split("reviews", {"v2": 100}))
        site.istiod.start()
        wait_for(
            lambda: get(site.mesh.gateway.listen.port, "/reviews/0")[0]["x-served-by"] == "reviews-v2",
            within_s=30,
            what="the new configuration at work",
        )
        router.wait_log("the XDS server answers again: the configuration is live")
        assert router.stats("xds-grpc.*upstream_(rq_total|cx_total)") == before
        assert site.istiod.observed.nack_messages() == []
        wait_for(lambda: metric(router, "serving 0"), what="the metric's return to 0")
        (told,) = json.loads(get(router.status_port, "/debug/xds")[1])
        assert (told["source"], told["leg"] > 1) == ("istiod", True)


def metric(router: RealAgent, text: str) -> bool:
    return f"istio_agent_xds_last_known_good_{text}\n" in get(router.status_port, "/metrics")[1]


def test_nothing_is_served_from_a_store_that_is_not_wanted_not_this_nodes_or_not_whole(site: Site) -> None:
    first_life(site, "delta")
    site.istiod.quit()
    kept = site.router.directory / STORE / "envoy.config.cluster.v3.Cluster.xlkg"
    whole = kept.read_bytes()
    for environment, said in (
        ({"XDS_LAST_KNOWN_GOOD": "off"}, ""),
        ({"POD_NAME": "another"}, "last known good configuration: CDS ignored: it is another's"),
        ({}, "last known good configuration: CDS ignored: the record at offset"),
    ):
        if not environment:
            kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with site.router_of("delta", **environment) as router:
            # Each attempt after the first second would have been followed by the store's answers.
            wait_for(lambda: router.log().count("upstream terminated") >= 4, what="attempts")
            router.wait_log(said)
            assert not router.is_ready()
            assert not site.serves()
        assert "serving the last known good configuration" not in router.log()
        (router.directory / "agent.log").unlink()
