"""Bad input to the whole agent: told in one clear line, kept from spreading, healed without a restart."""

import json
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import pytest

from lab.authority import Authority
from lab.faults import Faults
from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.observed import Observed
from lab.snapshot import CDS
from tests.scenarios.conftest import World, agent_for
from tests.support.agent import ROLES, RealAgent, calm, stack, with_config
from tests.support.load import Load
from tests.support.real_envoy import envoy_path, get
from tests.support.sds_client import SdsClient
from tests.support.status_client import get as ask
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy

ROOT = "var/run/secrets/istio/root-cert.pem"
TOKEN = "var/run/secrets/tokens/istio-token"
SDS_SOCKET = "var/run/secrets/workload-spiffe-uds/socket"
BROKEN_PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


# --- what ends the agent at its start: 255, one line, nothing left behind --------------------------

Change = Callable[[RealAgent], object]


def remove(path: str) -> Change:
    return lambda agent: (agent.directory / path).unlink()


def write(path: str, text: str) -> Change:
    def change(agent: RealAgent) -> None:
        (agent.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (agent.directory / path).write_text(text)

    return change


def directory_at(path: str) -> Change:
    def change(agent: RealAgent) -> None:
        (agent.directory / path).unlink()
        (agent.directory / path).mkdir()

    return change


def variable(name: str, value: str) -> Change:
    return lambda agent: agent.environment.update({name: value})


config = partial(variable, "PROXY_CONFIG")
FROM_ENVIRONMENT = r"failed to get proxy config: failed to unmarshal mesh config from environment \[.*\]: "
ENDS_THE_START = {
    "no CA root": (remove(ROOT), rf"root CA file for CA does not exist {ROOT}"),
    "a directory for the CA root": (directory_at(ROOT), rf"root CA file for CA does not exist {ROOT}"),
    "an empty CA root": (write(ROOT, ""), rf"root CA file for CA {ROOT} contains no PEM certificate"),
    "text for the CA root": (write(ROOT, "hello"), rf"root CA .* {ROOT} contains no PEM certificate"),
    "a broken CA root": (write(ROOT, BROKEN_PEM), rf"failed to .* root certificate .*{ROOT}"),
    "no xDS root": (variable("XDS_ROOT_CA", "/no/file"), "root CA file for XDS does not exist /no/file"),
    "no provisioned root": (variable("PROV_CERT", "/no"), "root CA .* does not exist /no/root-cert.pem"),
    "half a JSON object": (config("{"), FROM_ENVIRONMENT + "could not parse proxy config: .*"),
    "a list": (config("[]"), FROM_ENVIRONMENT + "could not parse proxy config: .* array .*"),
    "a control byte": (config("\x01"), FROM_ENVIRONMENT + "could not parse proxy config: .*"),
    "a foreign YAML tag": (config("!!python/name:os.system"), FROM_ENVIRONMENT + ".*python/name.*"),
    "a wrong type": (config('{"concurrency":"x"}'), FROM_ENVIRONMENT + ".*concurrency.*"),
    "a wrong duration": (config('{"drainDuration":"x"}'), FROM_ENVIRONMENT + ".*drainDuration.*"),
    "a port too large, seen by the validation": (
        config('{"proxyAdminPort":99999}'),
        "failed to get proxy config: 1 error occurred:",
    ),
    "a wrong address, seen by the validation": (
        config('{"discoveryAddress":"no"}'),
        "failed to get proxy config: 1 error occurred:",
    ),
    "a bad annotation": (
        write("etc/istio/pod/annotations", 'proxy.istio.io/config="{"\n'),
        r"failed to get proxy config: failed to unmarshal mesh config from annotation \[{\]: .*",
    ),
    "a bad mesh file": (
        write("etc/istio/config/mesh", "{"),
        r"failed to get proxy config: failed to unmarshal mesh config from file \[{\]: .*",
    ),
    "an unknown CA provider": (variable("CA_PROVIDER", "x"), 'CA provider "x" not registered'),
    "an unknown credential fetcher": (variable("CREDENTIAL_FETCHER_TYPE", "x"), ".*fetcher type x"),
    "a path for the socket's name": (
        variable("WORKLOAD_IDENTITY_SOCKET_FILE", "a/b"),
        "workload identity socket file override must be a filename, not a path: a/b",
    ),
    "a socket that nobody serves": (
        variable("WORKLOAD_IDENTITY_SOCKET_FILE", "other"),
        "agent configured for non-default SDS socket path: .*other but no socket found",
    ),
    "no bootstrap template": (
        variable("ISTIO_BOOTSTRAP", "/no/file"),
        "failed to initialize envoy agent: .*open /no/file: no such file or directory",
    ),
}


@pytest.fixture
def absent_istiod(mesh: Mesh) -> Istiod:
    """It provisions pods, and listens nowhere."""
    return Istiod(mesh, port=9)


@pytest.mark.parametrize("what", ENDS_THE_START)
def test_what_cannot_work_ends_the_start_with_255_and_one_error(
    what: str, workdir: Path, absent_istiod: Istiod
) -> None:
    change, words = ENDS_THE_START[what]
    agent = agent_for(absent_istiod, workdir)
    change(agent)
    before = {path for path in workdir.rglob("*") if path.name != "agent.log"}
    with calm(agent):
        assert agent.process is not None
        assert agent.process.wait(20) == 255
        log = agent.log()
        (error,) = re.findall(rf"^Error: ({words})$", log, re.MULTILINE)
        assert re.findall(r"\terror\t(.*)", log) == [error]
        if "validation" not in what:  # the reference lists what it finds, one line each
            assert len(re.split("\n20", log[log.index("Error: ") :])[0].splitlines()) == 1
        assert not agent.family()
        assert {path for path in workdir.rglob("*") if path.name != "agent.log"} == before


# --- what keeps it from its work for a while --------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something wrong from before the start; `line` is what the user reads, then it ends."""

    begins: Callable[[RealAgent, Istiod], object]
    ends: Callable[[RealAgent, Istiod], object]
    line: str
    has_certificate: bool = False  # the CA is not concerned
    signed_in_vain: bool = False  # the CA signs, and its answer is of no use


def token(text: str | bytes | None) -> Callable[[RealAgent, Istiod], None]:
    """Put this into the token's file; None: no file."""

    def change(agent: RealAgent, istiod: Istiod) -> None:
        path = agent.directory / TOKEN
        path.unlink()
        if text is not None:
            path.write_bytes(text.encode() if isinstance(text, str) else text)

    return change


def good_files(agent: RealAgent, istiod: Istiod) -> None:
    if (agent.directory / TOKEN).is_dir():
        (agent.directory / TOKEN).rmdir()
    istiod.provision(agent.directory, "default", "bookinfo-apps")


def expired_token(agent: RealAgent, istiod: Istiod) -> None:
    (agent.directory / TOKEN).write_text(istiod.mint_token("default", "bookinfo-apps", ttl_s=-60))


def token_for_another_audience(agent: RealAgent, istiod: Istiod) -> None:
    text = istiod.tokens.mint("default", "bookinfo-apps", audience="vault")
    (agent.directory / TOKEN).write_text(text)


def faults(**switches: object) -> Callable[[RealAgent, Istiod], None]:
    def change(agent: RealAgent, istiod: Istiod) -> None:
        for name in ("refuse_tokens", "ca", "ads"):
            setattr(istiod.faults, name, switches.get(name, getattr(Faults(), name)))

    return change


def foreign_root(agent: RealAgent, istiod: Istiod) -> None:
    (agent.directory / ROOT).write_text(Authority().root_pem)


WARMING = r"\twarn\tsds\tfailed to warm certificate: failed to generate workload certificate: "
REFUSED = WARMING + "create certificate: rpc error: code = "
UPSTREAM = r"\twarn\txdsproxy\tupstream terminated with unexpected error rpc error: code = "
TROUBLES = {
    "no token": Trouble(
        begins=token(None),
        ends=good_files,
        line=r"\twarn\tfailed to fetch token from file: .*No such file or directory.*istio-token",
    ),
    "a directory for the token": Trouble(
        begins=lambda agent, _: directory_at(TOKEN)(agent),
        ends=good_files,
        line=r"\twarn\tfailed to fetch token from file: .*Is a directory.*istio-token",
    ),
    "a token of bytes": Trouble(
        begins=token(b"\xff\x00\r\n\x80"),
        ends=good_files,
        line=r"\twarn\tfailed to fetch token from file: ",
    ),
    "a bad token": Trouble(
        begins=token("nonsense"), ends=good_files, line=REFUSED + "Unauthenticated desc = the token is"
    ),
    "an expired token": Trouble(
        begins=expired_token, ends=good_files, line=REFUSED + "Unauthenticated desc = .*expired"
    ),
    "an empty token": Trouble(
        begins=token(""), ends=good_files, line=r"\twarn\ttoken file .*istio-token is empty"
    ),
    "a token for another audience": Trouble(
        begins=token_for_another_audience,
        ends=good_files,
        line=REFUSED + "Unauthenticated desc = token audience got=",
    ),
    "istiod refuses every token": Trouble(
        begins=faults(refuse_tokens=True), ends=faults(), line=UPSTREAM + "Unauthenticated desc = "
    ),
    "the CA refuses": Trouble(
        begins=faults(ca="refuse"), ends=faults(), line=REFUSED + "PermissionDenied desc = the CA signs"
    ),
    "the CA is down": Trouble(
        begins=faults(ca="unavailable"), ends=faults(), line=REFUSED + "Unavailable desc = the CA is down"
    ),
    "the CA's answer is too short": Trouble(
        begins=faults(ca="short-chain"),
        ends=faults(),
        line=WARMING + "invalid empty CertChain",
        signed_in_vain=True,
    ),
    "discovery is down": Trouble(
        begins=faults(ads="unavailable"),
        ends=faults(),
        line=UPSTREAM + "Unavailable desc = discovery is down",
        has_certificate=True,
    ),
    "istiod is down": Trouble(
        begins=lambda _, istiod: istiod.quit(),
        ends=lambda _, istiod: istiod.start(),
        line=UPSTREAM + "Unavailable desc = .*connection refused",
    ),
    "the root of another CA": Trouble(
        begins=foreign_root,
        ends=good_files,
        line=REFUSED + "Unavailable desc = .*(CERTIFICATE_VERIFY_FAILED|certificate)",
    ),
}


def sds_answer(agent: RealAgent) -> str:
    """Return the certificate chain that SDS has, or its words for not having one."""
    with SdsClient(str(agent.directory / SDS_SOCKET)) as client:
        stream = client.stream()
        stream.names("default")
        try:
            chain = stream.secrets(30)["default"].tls_certificate.certificate_chain
            return str(chain.inline_bytes, "ascii")
        except AssertionError as ended:
            return str(ended)


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_is_told_the_rest_goes_on_and_it_heals_without_a_restart(
    name: str, workdir: Path, istiod: Istiod
) -> None:
    trouble = TROUBLES[name]
    agent = agent_for(istiod, workdir)
    trouble.begins(agent, istiod)
    with calm(agent):
        agent.wait_log(trouble.line)
        wait_for(lambda: agent.admin("/server_info"), what="Envoy's admin port")
        assert ask(agent.status_port, "/healthz/ready").status == 503
        assert ask(agent.status_port, "/stats/prometheus").status == 200
        answer = sds_answer(agent)
        if trouble.has_certificate:
            assert answer.startswith("-----BEGIN CERTIFICATE-----")
        else:
            assert "failed to generate secret for default: failed to generate workload cert" in answer
        pids = [agent.actor_pid(role) for role in ROLES] + [envoy.pid for envoy in agent.envoys()]

        trouble.ends(agent, istiod)
        agent.wait_ready(60)
        assert [agent.actor(role) for role in ROLES] + [envoy.pid for envoy in agent.envoys()] == pids
        assert istiod.observed.csrs_signed() == 1 or trouble.signed_in_vain
        assert istiod.observed.nack_messages() == []


# --- what goes wrong later: nothing is lost ---------------------------------------------------------


@contextmanager
def calm_world(world: World) -> Iterator[None]:
    """No stack may stand in the log of either agent."""
    yield
    assert [stack(world.sidecar), stack(world.router)] == ["", ""]


def reviews(world: World) -> set[str]:
    return {get(world.port, "/reviews/0")[0]["x-served-by"] for _ in range(10)}


def test_istiod_goes_away_and_comes_back_and_no_request_fails(world: World) -> None:
    with calm_world(world), Load(world.port, "/productpage") as load:
        world.istiod.quit()
        world.sidecar.wait_log(UPSTREAM + "Unavailable")
        sent = load.sent
        wait_for(lambda: load.sent > sent + 100, what="requests without istiod")
        assert world.sidecar.is_ready()
        world.istiod.restart()
        world.istiod.push(world.mesh.with_split("reviews", {"v2": 100}))
        wait_for(lambda: reviews(world) == {"reviews-v2"}, within_s=60, what="the new weights at work")
    assert load.failures == []


GARBAGE = (b"\xff\xff\xff", b"hello world", bytes(1000))
MALFORMED = "malformed response from the XDS server"


def told(agent: RealAgent, words: str, times: int) -> bool:
    return agent.log().count(words) >= times


def opened_again(streams: int, seen: Observed) -> bool:
    """Return whether both agents have opened another stream since there were so many."""
    return len(seen.streams) >= streams + 2


def test_xds_bytes_that_are_no_protobuf_are_told_and_nothing_is_lost(world: World) -> None:
    agent, istiod = world.sidecar, world.istiod
    clusters = agent.admin("/clusters")
    with calm_world(world), Load(world.port, "/productpage") as load:
        for number, data in enumerate(GARBAGE, 1):
            streams = len(istiod.observed.streams)
            istiod.send_raw(data)
            wait_for(partial(told, agent, MALFORMED, number), what=f"error line {number}")
            istiod.observed.wait_until(partial(opened_again, streams), 40)
        assert cluster_names(agent.admin("/clusters")) == cluster_names(clusters)
        istiod.push(world.mesh.with_split("reviews", {"v2": 100}))
        wait_for(lambda: reviews(world) == {"reviews-v2"}, within_s=60, what="the new weights at work")
    assert load.failures == []
    assert istiod.observed.nack_messages() == []


def cluster_names(clusters: str) -> set[str]:
    """Return the names of the clusters in Envoy's own list."""
    return {line.split("::")[0] for line in clusters.splitlines()}


def test_a_resource_that_is_no_protobuf_is_rejected_by_envoy_and_told_to_istiod(world: World) -> None:
    # A DeltaDiscoveryResponse (1 version, 2 resources, 4 type, 5 nonce) whose envelope holds.
    name = b"broken"
    body = b"\x0a" + bytes([len(CDS)]) + CDS.encode() + b"\x12\x03\xff\xff\xff"
    resource = b"\x1a" + bytes([len(name)]) + name + b"\x12" + bytes([len(body)]) + body
    whole = (
        b"\x0a\x01x\x12" + bytes([len(resource)]) + resource + b"\x22" + bytes([len(CDS)]) + CDS.encode()
    ) + b"\x2a\x07nonce-1"
    with calm_world(world), Load(world.port, "/productpage") as load:
        world.istiod.send_raw(whole)
        world.istiod.observed.wait_until(
            lambda seen: any(one.error_message and one.response_nonce == "nonce-1" for one in seen.requests),
            30,
        )
        world.sidecar.wait_log("rejected|gRPC config for .*Cluster.* rejected")
        sent = load.sent
        wait_for(lambda: load.sent > sent + 50, what="requests afterwards")
    assert load.failures == []


def test_a_broken_root_file_changes_nothing_and_a_new_one_is_used_for_the_next_connection(
    world: World,
) -> None:
    agent, old = world.sidecar, world.istiod
    port = int(old.address.rpartition(":")[2])
    with calm_world(world), Load(world.port, "/productpage") as load:
        (agent.directory / ROOT).write_text(BROKEN_PEM)
        streams = len(old.observed.streams)
        old.disconnect_all(grpc.StatusCode.UNAVAILABLE)
        agent.wait_log(r"\twarn\txdsproxy\troot certificates for XDS not reloaded, the old ones stay: ")
        old.observed.wait_until(partial(opened_again, streams), 40)
        old.quit()
        with Istiod(world.mesh, port=port, authority=Authority()) as new:
            agent.wait_log(UPSTREAM + "Unavailable")
            for each in (agent, world.router):
                account = each.environment["SERVICE_ACCOUNT"]
                new.provision(each.directory, "default", account)
            new.push(world.mesh.with_split("reviews", {"v2": 100}))
            wait_for(lambda: reviews(world) == {"reviews-v2"}, within_s=60, what="the new weights at work")
    assert load.failures == []


def test_a_refused_rotation_is_told_and_the_certificate_at_hand_serves_until_the_ca_is_back(
    workdir: Path, istiod: Istiod
) -> None:
    istiod.faults.certificate_ttl_s = 60
    environment = {"SECRET_GRACE_PERIOD_RATIO": "0.95", "CERT_ROTATION_POLICY": "sds"}
    with calm(agent_for(istiod, workdir, environment=environment)) as agent:
        agent.wait_ready()
        istiod.faults.ca = "refuse"
        agent.wait_log(
            r"\terror\tcache\trotation failed, the certificate at hand is served on: .*the CA signs"
        )
        serial = agent.serial()
        assert agent.is_ready()
        assert sds_answer(agent).startswith("-----BEGIN CERTIFICATE-----")
        istiod.faults.ca = "up"
        wait_for(lambda: agent.serial() != serial, within_s=30, what="the new certificate in Envoy")


# --- Envoy ------------------------------------------------------------------------------------------


def program(agent: RealAgent, text: str, mode: int = 0o755) -> Path:
    """Let this script be the Envoy of the agent."""
    path = agent.directory / "envoy-program"
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.chmod(mode)
    draft.rename(path)
    with_config(agent, binaryPath=str(path))
    return path


@pytest.mark.parametrize("policy", ["never", "on-failure"])
@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0, "no such file or directory"),
        ("#!/bin/sh\n", 0o644, "permission denied"),
        ("no program", 0o755, "exec format error"),
    ],
)
def test_an_envoy_that_cannot_be_started_ends_the_agent_with_0_and_its_error(
    *, text: str | None, mode: int, words: str, policy: str, workdir: Path, absent_istiod: Istiod
) -> None:
    agent = agent_for(absent_istiod, workdir, environment={"ENVOY_RESTART_POLICY": policy})
    path = program(agent, text or "", mode)
    if text is None:
        path.unlink()
    with calm(agent):
        assert agent.process is not None
        assert agent.process.wait(20) == 0
        errors = re.findall(r"\terror\t(.*)", agent.log())
        assert errors == [f"Envoy exited with error: fork/exec {path}: {words}"]
        left = [each.name for each in (workdir / "etc/istio/proxy").iterdir()]
        assert [name for name in left if "rev" in name or "XDS" in name] == []


def test_an_envoy_that_crashes_at_once_ends_the_agent_with_0_where_no_restart_is_wanted(
    workdir: Path, absent_istiod: Istiod
) -> None:
    agent = agent_for(absent_istiod, workdir, environment={"ENVOY_RESTART_POLICY": "never"})
    program(agent, "#!/bin/sh\nexit 3\n")
    with calm(agent):
        assert agent.process is not None
        assert agent.process.wait(20) == 0
        assert re.findall(r"\terror\t(.*)", agent.log()) == ["Envoy exited with error: exit status 3"]


def pauses_s(agent: RealAgent) -> list[float]:
    said = re.findall(r"\terror\tEnvoy is started again in ([0-9.]+)(ms|s) ", agent.log())
    return [float(number) / (1000 if unit == "ms" else 1) for number, unit in said]


def test_an_envoy_that_crashes_at_once_is_tried_at_growing_pauses_while_the_rest_serves(
    workdir: Path, istiod: Istiod
) -> None:
    agent = agent_for(istiod, workdir)
    program(agent, "#!/bin/sh\nexit 3\n")
    with calm(agent):
        wait_for(lambda: len(pauses_s(agent)) >= 4, what="four attempts")
        assert agent.log().count("Envoy exited with error: exit status 3") >= 4
        first, *_, last = pauses_s(agent)
        assert last > 2 * first
        assert ask(agent.status_port, "/healthz/ready").status == 503
        assert ask(agent.status_port, "/stats/prometheus").status == 200
        assert sds_answer(agent).startswith("-----BEGIN CERTIFICATE-----")
        assert stat.S_ISSOCK((workdir / "etc/istio/proxy/XDS").stat().st_mode)

        program(agent, f'#!/bin/sh\nexec {envoy_path()} "$@"\n')
        agent.wait_ready(40)
        assert istiod.observed.csrs_signed() == 1
        assert agent.quit() == 0


def test_a_pod_ends_at_once_while_its_envoy_is_waited_for(workdir: Path, absent_istiod: Istiod) -> None:
    agent = agent_for(absent_istiod, workdir)
    program(agent, "#!/bin/sh\nkill -SEGV $$\n")
    with calm(agent):
        agent.wait_log(r"\terror\tEnvoy exited with error: signal: segmentation fault")
        wait_for(lambda: len(pauses_s(agent)) >= 2, what="two attempts")
        assert agent.quit(within_s=5) == 0


def test_a_bootstrap_that_envoy_refuses_is_told_by_envoy_itself(workdir: Path, absent_istiod: Istiod) -> None:
    agent = agent_for(absent_istiod, workdir, environment={"ENVOY_RESTART_POLICY": "never"})
    (workdir / "override.json").write_text(json.dumps({"admin": 5}))
    agent.environment["ISTIO_BOOTSTRAP_OVERRIDE"] = str(workdir / "override.json")
    with calm(agent):
        assert agent.process is not None
        assert agent.process.wait(20) == 0
        agent.wait_log("\tcritical\tenvoy main .*admin|rror initializing config|Unable to parse")
        assert "Envoy exited with error: exit status 1" in agent.log()
