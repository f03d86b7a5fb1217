"""A real Wasm module, named in ECDS, fetched by the agent and run by a real Envoy."""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab.istiod import Istiod
from lab.mesh import Address, Mesh
from lab.resources import build_snapshot
from lab.resources.extensions import broken, extended, listener, wasm_plugin
from lab.snapshot import ECDS, Resource
from tests.scenarios.conftest import agent_for
from tests.scenarios.test_environment import DATA, sealed
from tests.scenarios.test_last_known_good import STORE, place_identity
from tests.support.agent import RealAgent, calm
from tests.support.oci_registry import OciRegistry
from tests.support.proxy_wasm import header_filter
from tests.support.real_envoy import free_ports, get
from tests.support.site import Asked, Site, answer, page, silent
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy
PATIENT = {"WASM_HTTP_REQUEST_TIMEOUT": "280s"}
ONE, TWO = header_filter("one"), header_filter("two")


class Extended:
    """An agent whose Envoy has a listener with these extensions, and the istiod that tells it so."""

    def __init__(self, mesh: Mesh, stack: ExitStack, *plugins: Resource) -> None:
        self._mesh = mesh
        (self.port,) = free_ports(1)
        self.istiod = Istiod(lambda _: self._snapshot(plugins))
        stack.enter_context(self.istiod)

    def _snapshot(self, plugins: tuple[Resource, ...]) -> Any:
        base = build_snapshot(self._mesh, "sidecar")
        names = (one.name for one in plugins)
        return extended(base, *plugins, listener(Address("127.0.0.1", self.port), *names))

    def push(self, *plugins: Resource) -> None:
        self.istiod.push(lambda _: self._snapshot(plugins))

    def header(self) -> str:
        """Return what the module wrote; fails while the listener is not there."""
        headers, body = get(self.port, "/")
        assert body == "passed"
        return headers.get("x-wasm", "")

    def wait_header(self, value: str) -> None:
        wait_for(lambda: self.header() == value, within_s=20, what=f"header x-wasm: {value}")

    def wait_status(self, status: int) -> None:
        def look() -> bool:
            try:
                get(self.port, "/")
            except OSError as error:
                return f"status {status}" in str(error)
            return status == 200

        wait_for(look, within_s=20, what=f"status {status}")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(stack: ExitStack) -> Site:
    site = stack.enter_context(Site())
    site.pages["/one.wasm"] = page(ONE)
    return site


def metrics(agent: RealAgent) -> dict[str, float]:
    text = get(agent.status_port, "/stats/prometheus")[1]
    found = re.findall(r"^istio_agent_(wasm_\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def cached(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in (directory / "var/lib/istio/data").glob("*/*.wasm")]


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_module_from_a_web_server_runs_is_replaced_and_goes_on_when_nonsense_follows(
    variant: str, workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    site.pages["/two.wasm"] = page(TWO)
    world = Extended(
        mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm", sha256=sha256(ONE).hexdigest())
    )
    environment = {"ISTIO_DELTA_XDS": str(variant == "delta").lower()}
    agent = stack.enter_context(agent_for(world.istiod, workdir, environment=environment)).wait_ready()
    world.wait_header("one")
    world.push(wasm_plugin("plugin", f"{site.url}/two.wasm"))
    world.wait_header("two")
    assert sorted(cached(workdir)) == sorted([ONE, TWO])
    world.istiod.observed.wait_until(lambda seen: seen.acks(ECDS) == 2)
    assert world.istiod.observed.nack_messages() == []

    def counted() -> bool:
        seen = metrics(agent)
        return (
            seen.get('wasm_config_conversion_count{result="success"}') == 2
            and seen.get('wasm_remote_fetch_count{result="success"}') == 2
            and seen.get("wasm_config_conversion_duration_count") == 2
            and seen.get("wasm_cache_entries") == 2
        )

    wait_for(counted, what="the metrics")
    push_what_nobody_can_take(world, variant)
    assert world.header() == "two"


def push_what_nobody_can_take(world: Extended, variant: str) -> None:
    """Push it, and see that istiod gets the NACK it would get of the reference."""
    observed = world.istiod.observed
    world.push(broken("plugin"))
    observed.wait_until(lambda seen: seen.nacks(ECDS) == 1)
    *_, good, bad = [sent for sent in observed.responses if sent.type_url == ECDS]
    (nack,) = [request for request in observed.requests if request.verdict == "nack"]
    assert nack.error_message == "extension config 'plugin' has no typed_config"
    assert nack.response_nonce == bad.nonce
    assert nack.version_info == (good.version_info if variant == "sotw" else "")
    assert nack.subscribe == nack.unsubscribe == ()


def test_an_image_with_a_pull_secret_runs_in_envoy_and_the_secret_goes_no_further(
    workdir: Path, mesh: Mesh, stack: ExitStack
) -> None:
    registry = stack.enter_context(OciRegistry(users={"me": "hunter2"}, basic=True))
    registry.push("plugins/header", "v1", "docker", ONE)
    secret = f'{{"auths":{{"{registry.authority}":{{"username":"me","password":"hunter2"}}}}}}'
    world = Extended(
        mesh,
        stack,
        wasm_plugin(
            "plugin",
            f"oci://{registry.authority}/plugins/header:v1",
            environment={"ISTIO_META_WASM_IMAGE_PULL_SECRET": secret, "MINE": "kept"},
        ),
    )
    agent = stack.enter_context(agent_for(world.istiod, workdir)).wait_ready()
    world.wait_header("one")
    dumped = agent.admin("/config_dump?include_eds")
    assert "kept" in dumped
    assert "ISTIO_META_WASM" not in dumped
    assert "hunter2" not in dumped + agent.log()


def test_without_its_module_a_closed_filter_denies_an_open_one_allows_and_a_push_heals_it(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    gone = f"{site.url}/gone"
    world = Extended(mesh, stack, wasm_plugin("plugin", gone))
    stack.enter_context(agent_for(world.istiod, workdir)).wait_ready()
    world.wait_status(403)
    world.push(wasm_plugin("plugin", gone, fail_open=True))
    world.wait_status(200)
    assert world.header() == ""
    world.push(wasm_plugin("plugin", f"{site.url}/one.wasm"))
    world.wait_header("one")


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_filter_that_runs_goes_on_where_the_module_of_its_successor_cannot_be_had(
    variant: str, workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    environment = {"ISTIO_DELTA_XDS": str(variant == "delta").lower()}
    agent = stack.enter_context(agent_for(world.istiod, workdir, environment=environment)).wait_ready()
    world.wait_header("one")

    def seen(serving: int) -> bool:
        assert world.header() == "one", "no request is denied, and none passes without the filter"
        return metrics(agent).get("wasm_last_known_good_serving") == serving

    site.pages["/lying.wasm"] = page(TWO)
    acks = world.istiod.observed.acks(ECDS)
    world.push(wasm_plugin("plugin", f"{site.url}/lying.wasm", sha256=sha256(ONE).hexdigest()))
    world.istiod.observed.wait_until(lambda seen: seen.acks(ECDS) > acks)
    wait_for(lambda: seen(1), what="the metric")
    assert "the one before it goes on" in agent.log()
    psutil.Process(agent.actor_pid("upstream-xds")).kill()
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: seen(1) and agent.restart_epoch() == 1, within_s=20, what="epoch 1")
    agent.wait_ready()
    world.wait_header("one")
    site.pages["/two.wasm"] = page(TWO)
    world.push(wasm_plugin("plugin", f"{site.url}/two.wasm"))
    world.wait_header("two")
    wait_for(lambda: metrics(agent).get("wasm_last_known_good_serving") == 0, what="the metric")
    assert world.istiod.observed.nack_messages() == []


def test_a_module_that_envoy_rejects_leaves_the_one_before_and_so_does_a_hot_restart(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    agent = stack.enter_context(agent_for(world.istiod, workdir)).wait_ready()
    world.wait_header("one")
    site.pages["/cut.wasm"] = page(TWO[: len(TWO) // 2])
    world.push(wasm_plugin("plugin", f"{site.url}/cut.wasm"))
    world.istiod.observed.wait_until(lambda seen: seen.nacks(ECDS) == 1)
    assert world.header() == "one"
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: world.header() == "one" and agent.restart_epoch() == 1, within_s=20, what="epoch 1")
    agent.wait_ready()
    for _ in range(50):
        assert world.header() == "one"
        time.sleep(0.1)


def test_without_the_last_good_filter_a_newer_one_without_its_module_denies_as_in_the_reference(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    environment = {"WASM_LAST_KNOWN_GOOD": "off"}
    stack.enter_context(agent_for(world.istiod, workdir, environment=environment)).wait_ready()
    world.wait_header("one")
    world.push(wasm_plugin("plugin", f"{site.url}/gone"))
    world.wait_status(403)


def test_a_slow_download_holds_up_nothing_else(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    asked, go_on = threading.Event(), threading.Event()
    stack.callback(go_on.set)

    def slow(_: Asked) -> Iterator[bytes]:
        asked.set()
        go_on.wait(60)
        yield from answer(TWO)

    site.pages["/slow.wasm"] = slow
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    stack.enter_context(agent_for(world.istiod, workdir)).wait_ready()
    world.wait_header("one")
    world.push(wasm_plugin("plugin", f"{site.url}/slow.wasm"))
    assert asked.wait(20)
    (world.port,) = free_ports(1)  # another listener, with the same filter
    world.push(wasm_plugin("plugin", f"{site.url}/slow.wasm"))
    world.wait_header("one")
    assert cached(workdir) == [ONE]
    go_on.set()
    world.wait_header("two")
    assert world.istiod.observed.nack_messages() == []


def test_a_module_outlives_the_agent_and_is_used_without_its_source(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    with agent_for(world.istiod, workdir) as agent:
        agent.wait_ready()
        world.wait_header("one")
    site.pages.clear()
    with agent_for(world.istiod, workdir) as agent:
        agent.wait_ready()
        world.wait_header("one")
    assert site.count("/one.wasm") == 1


def test_a_module_runs_in_a_restarted_gateway_while_istiod_is_down(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    with agent_for(world.istiod, workdir, "router") as agent:
        agent.wait_ready()
        world.wait_header("one")
        kept = workdir / STORE / "envoy.config.core.v3.TypedExtensionConfig.xlkg"
        wait_for(lambda: kept.is_file() and b".wasm" in kept.read_bytes(), what="ECDS on the disk")
    place_identity(world.istiod, workdir)  # for istiod is the CA as well
    site.pages.clear()
    world.istiod.quit()
    with agent_for(world.istiod, workdir, "router"):
        world.wait_header("one")
    assert site.count("/one.wasm") == 1


def test_a_hot_restart_has_the_new_envoy_run_the_module_without_another_fetch(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    agent = stack.enter_context(agent_for(world.istiod, workdir)).wait_ready()
    world.wait_header("one")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: agent.restart_epoch() == 1, within_s=20, what="epoch 1")
    agent.wait_ready()
    world.wait_header("one")
    assert site.count("/one.wasm") == 1
    assert world.istiod.observed.nack_messages() == []


def test_two_agents_with_one_cache_run_what_either_fetched_and_harm_nothing_of_the_others(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    site.pages["/two.wasm"] = page(TWO)
    shared = workdir / "a" / DATA
    shared.mkdir(parents=True)
    other = workdir / "b" / DATA
    other.parent.mkdir(parents=True)
    other.symlink_to(shared)
    one_plugin = wasm_plugin("plugin", f"{site.url}/one.wasm")
    worlds = [Extended(mesh, stack, one_plugin) for _ in range(2)]
    agents = []
    for name, world in zip("ab", worlds, strict=True):
        environment = {"XDS_LAST_KNOWN_GOOD": "off"}
        agents.append(stack.enter_context(agent_for(world.istiod, workdir / name, environment=environment)))
        world.wait_header("one")
    assert site.count("/one.wasm") == 1
    for number in range(4):  # both at once: from one to the other and back
        name = ("two", "one")[number % 2]
        for world in worlds:
            world.push(wasm_plugin("plugin", f"{site.url}/{name}.wasm"))
        for world in worlds:
            world.wait_header(name)
    assert site.count("/one.wasm") == 1
    assert site.count("/two.wasm") in (1, 2)
    assert sorted(cached(workdir / "a")) == sorted([ONE, TWO])
    for world, agent in zip(worlds, agents, strict=True):
        assert world.istiod.observed.nack_messages() == []
        assert "is not used" not in agent.log()
    assert sorted(path.name for path in shared.iterdir() if path.name.startswith(".")) == []


def test_the_death_of_the_upstream_half_costs_no_module_and_no_answer(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    agent = stack.enter_context(agent_for(world.istiod, workdir)).wait_ready()
    world.wait_header("one")
    psutil.Process(agent.actor_pid("upstream-xds")).kill()
    site.pages["/two.wasm"] = page(TWO)
    world.push(wasm_plugin("plugin", f"{site.url}/two.wasm"))
    world.wait_header("two")


def test_a_worker_that_is_killed_in_the_middle_is_replaced(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    asked, go_on = threading.Event(), threading.Event()
    stack.callback(go_on.set)

    def slow_once(_: Asked) -> Iterator[bytes]:
        if not asked.is_set():
            asked.set()
            go_on.wait(60)
        yield from answer(ONE)

    site.pages["/one.wasm"] = slow_once
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    agent = stack.enter_context(agent_for(world.istiod, workdir))
    assert asked.wait(20)
    (worker,) = [one for one in agent.family() if one.name() == "pa-work-wasm"]
    worker.kill()
    world.wait_header("one")
    assert "killed by signal 9" in agent.log()
    assert world.istiod.observed.nack_messages() == []


def test_a_download_under_way_holds_up_neither_its_actors_return_nor_the_agents_end(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    site.pages["/one.wasm"] = silent()
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm", timeout="290s"))
    agent = stack.enter_context(agent_for(world.istiod, workdir, environment=PATIENT))
    wait_for(lambda: site.count("/one.wasm") == 1, within_s=20, what="the download")
    psutil.Process(agent.actor_pid("upstream-xds")).kill()
    wait_for(lambda: site.count("/one.wasm") == 2, within_s=20, what="the successor's download")
    family = agent.family()
    began_s = time.monotonic()
    assert agent.quit() == 0
    assert time.monotonic() - began_s < 10
    wait_for(lambda: not any(map(is_alive, family)), what="the end of every process")


@pytest.mark.root
def test_a_read_only_root_and_uid_1337_are_enough_for_a_module(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    agent = stack.enter_context(calm(sealed(world.istiod, workdir)))
    world.wait_header("one")
    assert [path.stat().st_uid for path in (workdir / DATA).rglob("*.wasm")] == [1337]
    assert "Permission denied" not in agent.log()
    assert "Read-only file system" not in agent.log()


@pytest.mark.root
def test_a_cache_that_cannot_be_written_costs_the_filter_alone_and_is_said(
    workdir: Path, mesh: Mesh, stack: ExitStack, site: Site
) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    agent = stack.enter_context(calm(sealed(world.istiod, workdir, without=DATA)))
    agent.wait_ready()
    world.wait_status(403)
    said = [line for line in agent.log().splitlines() if "cannot be kept in" in line]
    assert len(said) == 1
    assert "/var/lib/istio/data: [Errno 30] Read-only file system" in said[0]
    assert world.istiod.observed.nack_messages() == []


def test_conversion_can_be_switched_off(workdir: Path, mesh: Mesh, stack: ExitStack, site: Site) -> None:
    world = Extended(mesh, stack, wasm_plugin("plugin", f"{site.url}/one.wasm"))
    environment = {"ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION": "false"}
    stack.enter_context(agent_for(world.istiod, workdir, environment=environment)).wait_ready()
    world.istiod.observed.wait_until(lambda seen: seen.acks(ECDS) + seen.nacks(ECDS) == 1)
    assert cached(workdir) == []
    assert site.asked == []
