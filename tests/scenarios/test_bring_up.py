"""The agent brings up a real Envoy, and everything that istiod says is accepted."""

import json
import os
import stat
from pathlib import Path

import pytest

from lab.istiod import Istiod
from lab.replay import Variant, on_other_ports, recorded_snapshot
from lab.snapshot import CDS, EDS, LDS, RDS
from tests.scenarios.conftest import World, agent_for
from tests.support.agent import port_open
from tests.support.real_envoy import PortMap, get
from tests.support.waiting import wait_for

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
pytestmark = pytest.mark.envoy


def test_a_request_goes_through_gateway_mtls_and_sidecar_to_the_application(world: World) -> None:
    headers, body = get(world.port, "/productpage")
    assert "The Comedy of Errors" in body
    assert headers["x-caller"] == "spiffe://cluster.local/ns/default/sa/istio-ingressgateway"
    assert "spiffe://cluster.local/ns/default/sa/bookinfo-apps" in world.sidecar.admin("/certs")


def reviews_version(world: World) -> str:
    return get(world.port, "/reviews/0")[0]["x-served-by"]


def test_reviews_are_split_as_the_routes_say(world: World) -> None:
    served_by = [reviews_version(world) for _ in range(100)]
    assert set(served_by) == {"reviews-v1", "reviews-v3"}
    assert 25 <= served_by.count("reviews-v1") <= 75  # 50 expected; 5 standard deviations


def test_ready_means_the_same_on_the_agents_port_and_through_envoy(world: World) -> None:
    get(world.sidecar.status_port, "/healthz/ready")
    get(world.sidecar.ready_port, "/healthz/ready")


def test_files_and_sockets_are_where_the_reference_has_them(world: World) -> None:
    proxy = world.sidecar.directory / "etc/istio/proxy"
    assert (proxy / "envoy-rev.json").readlink() == Path("envoy-rev0.json")
    assert stat.S_IMODE((proxy / "envoy-rev0.json").stat().st_mode) == 0o600
    for socket_path in (
        proxy / "XDS",
        world.sidecar.directory / "var/run/secrets/workload-spiffe-uds/socket",
    ):
        assert stat.S_ISSOCK(socket_path.stat().st_mode)
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o666
    assert not list(proxy.glob("XDS.*"))


def test_the_log_tells_the_start_as_the_reference_does(world: World) -> None:
    recorded = (RECORDINGS / "sidecar.log-start-and-sigterm.txt").read_text()
    log = world.sidecar.log()
    said = [
        'info\tFLAG: --domain="default.svc.cluster.local"',
        "info\tVersion unknown-unknown-unknown",
        "info\tJWT policy is third-party-jwt",
        "info\tusing credential fetcher of JWT type in cluster.local trust domain",
        "info\tStarting default Istio SDS Server",
        "info\tsds\tStarting SDS grpc server",
        "info\tStarting proxy agent",
        "info\tcache\tgenerated new workload certificate\tresourceName=default latency=",
        "info\tcache\tRoot cert has changed, start rotating root cert",
        "info\tcache\treturned workload certificate from cache\tttl=",
        "info\tReadiness succeeded in ",
        "info\tEnvoy proxy is ready",
    ]
    for line in said:
        assert line in recorded
        assert line in log, line
    assert log.index("Starting default Istio SDS Server") < log.index("Starting proxy agent")


@pytest.mark.parametrize("variant", ["sotw", "delta"])
@pytest.mark.parametrize("role", ["sidecar", "router"])
def test_envoy_accepts_through_the_agent_all_that_istiod_was_recorded_to_say(
    role: str, variant: Variant, workdir: Path
) -> None:
    world = on_other_ports(recorded_snapshot(RECORDINGS, role, variant), PortMap())
    with (
        Istiod(world) as istiod,
        agent_for(
            istiod, workdir, role, environment={"ISTIO_DELTA_XDS": str(variant == "delta").lower()}
        ) as agent,
    ):
        agent.wait_ready()
        istiod.observed.wait_until(lambda seen: all(seen.acks(kind) for kind in (CDS, EDS, LDS, RDS)))
        assert istiod.observed.nack_messages() == []
        success = agent.stats(r"(cds|lds|rds\..*|sds\..*).update_success")
        rejected = agent.stats(r"(cds|lds|rds\..*|sds\..*|eds).update_rejected")
        assert success["cluster_manager.cds.update_success"] >= 1
        assert success["listener_manager.lds.update_success"] >= 1
        assert {name: count for name, count in rejected.items() if count} == {}
        certificates = json.loads(agent.admin("/certs"))["certificates"]
        assert any(entry.get("cert_chain") for entry in certificates)
        variants = {stream.variant for stream in istiod.observed.streams}
        assert variants == {variant}


def test_a_push_reaches_envoy_on_both_agents(world: World) -> None:
    world.istiod.push(world.mesh.with_split("reviews", {"v2": 100}))

    wait_for(
        lambda: {reviews_version(world) for _ in range(10)} == {"reviews-v2"}, what="the new weights at work"
    )


def test_sigterm_drains_and_ends_with_0_and_nothing_is_left(workdir: Path, istiod: Istiod) -> None:
    agent = agent_for(istiod, workdir)
    with agent:
        agent.wait_ready()
        family = agent.family()
        assert agent.quit() == 0
        log = agent.log()
        lines = [
            "Agent draining Proxy for termination",
            "Graceful termination period is 1s, starting...",
            "Graceful termination period complete, terminating remaining proxies.",
            "Agent has successfully terminated",
        ]
        at = [log.index(line) for line in lines]
        assert at == sorted(at)
        assert not [process for process in family if process.is_running()]
        left = [str(path) for path in (workdir / "etc/istio/proxy").iterdir()]
        assert [path for path in left if "envoy-rev" in path or "XDS" in path or "/hr" in path] == []
        assert not port_open(agent.status_port)


def test_the_container_restarts_over_the_files_of_a_killed_life(workdir: Path, istiod: Istiod) -> None:
    first = agent_for(istiod, workdir)
    with first:
        first.wait_ready()
    again = agent_for(istiod, workdir)
    with again:
        again.wait_ready()
        assert again.quit() == 0


def test_two_agents_side_by_side_do_not_disturb_each_other(world: World) -> None:
    assert world.router.quit() == 0
    assert world.sidecar.is_ready()
    get(world.sidecar.status_port, "/healthz/ready")


def test_the_agent_runs_as_any_user_without_a_home(workdir: Path, istiod: Istiod) -> None:
    if os.geteuid() != 0:
        pytest.skip("wants root, to become somebody else")
    agent = agent_for(
        istiod,
        workdir,
        prefix=(
            "setpriv",
            "--reuid=1337",
            "--regid=1337",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ),
    )
    for path in [workdir, *workdir.rglob("*")]:
        os.chown(path, 1337, 1337)
    with agent:
        agent.wait_ready()
        assert agent.quit() == 0
