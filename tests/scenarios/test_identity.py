"""The workload's identity through a pod's life: cold starts, a CA that is away, keys that stay private."""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks import rotations
from lab.istiod import Istiod
from pilot_agent.security.kept_identity import file_system_type
from tests.scenarios.conftest import World, agent_for
from tests.scenarios.test_environment import sealed
from tests.support.agent import ROLES, RealAgent, calm, command
from tests.support.mounted import publish_files
from tests.support.real_envoy import get
from tests.support.sds_client import SdsClient
from tests.support.small_ca import Authority, new_key, pem
from tests.support.status_client import get as ask
from tests.support.waiting import wait_for

pytestmark = pytest.mark.envoy

KEPT = "etc/istio/proxy/identity.kept"
SOCKET = "var/run/secrets/workload-spiffe-uds/socket"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, as a pod's configuration directory is."""
    with tempfile.TemporaryDirectory(prefix="pa-", dir="/dev/shm") as directory:
        yield Path(directory)


def served_key(agent: RealAgent, within_s: float = 20.0) -> bytes:
    """Return the private key that the SDS socket gives, waiting for the socket and for the key."""
    wait_for((agent.directory / SOCKET).exists, within_s=within_s, what="the SDS socket")
    with SdsClient(str(agent.directory / SOCKET)) as client:
        stream = client.stream()
        stream.names("default")
        secret = stream.secrets(within_s)["default"]
        return bytes(secret.tls_certificate.private_key.inline_bytes)


def test_a_container_that_starts_again_without_istiod_serves_the_identity_it_had(
    istiod: Istiod, memory: Path
) -> None:
    with calm(agent_for(istiod, memory)) as agent:
        agent.wait_ready()
        key, serial = served_key(agent), agent.serial()
        assert (memory / KEPT).stat().st_mode & 0o777 == 0o600
        agent.kill()
        asked = istiod.observed.counts["csr", "signed"]
        istiod.quit()
        (memory / SOCKET).unlink()

        began_s = time.monotonic()
        agent.start()
        assert served_key(agent) == key
        assert time.monotonic() - began_s < 3.0
        agent.wait_log(r"serving the identity that was kept in .*identity\.kept\tserial=")
        istiod.start()
        agent.wait_ready()
        assert agent.serial() == serial
        assert istiod.observed.counts["csr", "signed"] == asked
        assert agent.quit() == 0
        assert not (memory / KEPT).exists()


def test_a_new_pod_without_its_ca_says_what_is_missing_and_heals_when_it_is_back(
    istiod: Istiod, memory: Path
) -> None:
    istiod.faults.ca = "unavailable"
    with calm(agent_for(istiod, memory)) as agent:
        agent.wait_log(r"no identity of an earlier container: .*No such file")
        agent.wait_log(r"failed to warm certificate: .*code = Unavailable desc = the CA is down")
        assert not agent.is_ready()
        istiod.faults.ca = "up"
        agent.wait_ready(60.0)


def test_switched_off_and_on_a_disk_nothing_is_kept(istiod: Istiod, memory: Path, workdir: Path) -> None:
    off = agent_for(istiod, memory, environment={"IDENTITY_LAST_KNOWN_GOOD": "off"})
    with off, agent_for(istiod, workdir) as on_disk:
        off.wait_ready()
        on_disk.wait_ready()
        descriptor = (workdir / "etc/istio/proxy/envoy-rev.json").open("rb")
        with descriptor:
            is_memory = file_system_type(descriptor.fileno()) == 0x01021994
        assert (workdir / KEPT).exists() == is_memory
        assert not (memory / KEPT).exists()


def test_with_the_ca_down_from_the_rotation_on_mtls_works_through_a_restart_of_envoy(world: World) -> None:
    agent = world.sidecar
    assert agent.quit() == 0
    agent.environment["ECC_SIGNATURE_ALGORITHM"] = "ECDSA"
    world.istiod.faults.certificate_ttl_s = 30
    agent.start().wait_ready()
    world.istiod.faults.ca = "unavailable"
    serial = agent.serial()
    agent.wait_log("rotation failed, the certificate at hand is served on", 40.0)
    (envoy,) = agent.envoys()
    envoy.kill()
    wait_for(lambda: [one.pid for one in agent.envoys()] not in ([], [envoy.pid]), what="the next Envoy")
    agent.wait_ready()
    assert agent.serial() == serial
    assert "Bookstore" in get(world.port, "/productpage")[1]
    world.istiod.faults.certificate_ttl_s = None
    world.istiod.faults.ca = "up"
    wait_for(lambda: agent.serial() != serial, within_s=20, what="the next certificate")
    assert "Bookstore" in get(world.port, "/productpage")[1]


REFUSED = "rotation failed, the certificate at hand is served on"
TOKEN = "var/run/secrets/tokens/istio-token"
BAD_TOKENS: dict[str, Callable[[Istiod], str | None]] = {
    "expired": lambda istiod: istiod.mint_token("default", "bookinfo-apps", ttl_s=-60),
    "deleted": lambda _: None,
    "empty": lambda _: "",
    "for another audience": lambda istiod: istiod.tokens.mint("default", "bookinfo-apps", audience="vault"),
    "for another account": lambda istiod: istiod.mint_token("default", "bookinfo-gateway"),
}


def rotate(agent: RealAgent) -> None:
    program = [*command(), "restart", "--rotate", f"--status-port={agent.status_port}"]
    subprocess.run(program, check=True, timeout=30)


def test_whatever_happens_to_the_token_a_rotation_succeeds_within_a_minute_of_its_end(
    istiod: Istiod, workdir: Path
) -> None:
    variables = {"CERT_ROTATION_POLICY": "sds", "ECC_SIGNATURE_ALGORITHM": "ECDSA"}
    with calm(agent_for(istiod, workdir, environment=variables)) as agent:
        agent.wait_ready()
        pids = [agent.actor_pid(role) for role in ROLES]
        path = workdir / TOKEN
        for what, bad in BAD_TOKENS.items():
            serial, signed = agent.serial(), istiod.observed.counts["csr", "signed"]
            path.unlink()
            if (text := bad(istiod)) is not None:
                path.write_text(text)
            refused = agent.log().count(REFUSED)
            rotate(agent)
            wait_for(lambda before=refused: agent.log().count(REFUSED) > before, within_s=20, what=what)  # type: ignore[misc]
            assert agent.serial() == serial
            assert istiod.observed.counts["csr", "signed"] <= signed + (what == "for another account") * 9
            path.unlink(missing_ok=True)
            began_s = time.monotonic()
            path.write_text(istiod.mint_token("default", "bookinfo-apps"))
            wait_for(lambda old=serial: agent.serial() != old, within_s=60, what=f"{what}: healed")  # type: ignore[misc]
            assert time.monotonic() - began_s < 60
            assert agent.is_ready()
        assert [agent.actor_pid(role) for role in ROLES] == pids


@pytest.mark.parametrize("how", ["SIGTERM", "/quitquitquit", "SIGKILL"])
def test_the_kept_identity_goes_with_the_pod_and_stays_for_a_container_that_was_killed(
    istiod: Istiod, memory: Path, how: str
) -> None:
    with agent_for(istiod, memory, proxy_config={"terminationDrainDuration": "0s"}) as agent:
        agent.wait_ready()
        wait_for((memory / KEPT).exists, what="the kept identity")
        assert agent.process is not None
        if how == "/quitquitquit":
            ask(agent.status_port, "/quitquitquit", "Content-Length: 0", method="POST")
            assert agent.process.wait(15) == 0
        elif how == "SIGTERM":
            assert agent.quit() == 0
        else:
            agent.kill()
        left = sorted(each.name for each in (memory / KEPT).parent.glob("identity.kept*"))
        assert left == (["identity.kept"] if how == "SIGKILL" else [])


def plant(directory: Path) -> list[bytes]:
    """Put a known key pair where certificates of a VM stand; return how its key could be written down."""
    authority, key = Authority(), new_key()
    certificate = authority.issue(key.public_key(), lifetime_s=86400)
    form = PrivateFormat.TraditionalOpenSSL
    text = key.private_bytes(Encoding.PEM, form, NoEncryption())
    folder = directory / "etc" / "certs"
    folder.mkdir(parents=True)
    (folder / "key.pem").write_bytes(text)
    (folder / "cert-chain.pem").write_text(pem(certificate))
    (folder / "root-cert.pem").write_text(authority.root_pem)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    lines = [line for line in text.splitlines() if not line.startswith(b"-")]
    return [number, number.hex().encode(), lines[0], lines[1]]


def faked_time(directory: Path) -> dict[str, str]:
    """Return variables that let the agent's wall clock be set by writing `clock`, the monotonic one not."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("wants libfaketime (Debian: apt-get install libfaketime)")
    (directory / "clock").write_text("+0")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(directory / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def test_a_clock_that_jumps_a_day_either_way_costs_no_certificate_and_heals_within_a_minute(
    istiod: Istiod, workdir: Path
) -> None:
    """With a clock so wrong the CA's own certificate is not valid: nothing can be signed meanwhile."""
    with calm(agent_for(istiod, workdir, environment=faked_time(workdir))) as agent:
        key = served_key(agent)
        for jump, line in (
            ("-86400", "rotation failed, the certificate at hand is served on: "),
            ("+90000", "failed to warm certificate: "),  # the one at hand has expired, by this clock
        ):
            (workdir / "clock").write_text(jump)
            agent.wait_log(line, 20.0)
            if jump == "-86400":
                assert served_key(agent, 5.0) == key
            signed, began_s = istiod.observed.counts["csr", "signed"], time.monotonic()
            (workdir / "clock").write_text("+0")
            assert served_key(agent, 5.0)  # the valid one was not thrown away, if there is no newer one yet
            wait_for(
                lambda signed=signed: istiod.observed.counts["csr", "signed"] > signed,  # type: ignore[misc]
                within_s=60,
                what="the certificate that was tried for meanwhile",
            )
            wait_for(lambda key=key: served_key(agent) != key, what="it being served")  # type: ignore[misc]
            assert time.monotonic() - began_s < 60.0
            key = served_key(agent)


def publish(folder: Path, authority: Authority, number: int) -> bytes:
    """Change a mounted secret as the kubelet does; return the new key."""
    key, chain = authority.workload_pair("spiffe://cluster.local/ns/default/sa/bookinfo-apps")
    publish_files(folder, number, key=key, chain=chain, roots=authority.root_pem)
    return key.encode()


def test_each_publication_of_mounted_certificates_is_served_within_a_second_or_two(
    istiod: Istiod, workdir: Path
) -> None:
    authority, folder = Authority(), workdir / "etc" / "certs"
    key = publish(folder, authority, 0)
    environment = {"XDS_ROOT_CA": "var/run/secrets/istio/root-cert.pem", "CERT_ROTATION_POLICY": "sds"}
    with calm(agent_for(istiod, workdir, environment=environment)) as agent:
        assert served_key(agent) == key
        with SdsClient(str(workdir / SOCKET)) as client:
            stream = client.stream()
            stream.names("default")
            stream.secrets()
            for number in range(1, 6):
                key = publish(folder, authority, number)
                secret = stream.secrets(3.0)["default"]
                assert secret.tls_certificate.private_key.inline_bytes == key
        assert istiod.observed.counts["csr", "signed"] == 0


def found_in(data: bytes, key: list[bytes]) -> bool:
    return any(part in data for part in key) or b"PRIVATE KEY" in data


def test_a_planted_key_is_nowhere_in_what_the_agent_writes_prints_and_shows(
    istiod: Istiod, workdir: Path
) -> None:
    key = plant(workdir)
    environment = {"XDS_ROOT_CA": "var/run/secrets/istio/root-cert.pem"}
    debug = ("--log_output_level=all:debug",)
    with calm(agent_for(istiod, workdir, environment=environment, arguments=debug)) as agent:
        assert found_in(served_key(agent), key)  # it is served, so it would be found
        wait_for(lambda: agent.admin("/server_info"), what="Envoy")
        pages = [get(agent.status_port, path)[1] for path in ("/status", "/stats/prometheus")]
        pages += [agent.admin(path) for path in ("/config_dump", "/certs", "/server_info", "/stats")]
        family = agent.family()
        for process in (psutil.Process(agent.process.pid), *family):  # type: ignore[union-attr]
            for name in ("cmdline", "environ"):
                pages.append(Path(f"/proc/{process.pid}/{name}").read_bytes().decode("latin-1"))
        for page in pages:
            assert not found_in(page.encode("latin-1", errors="replace"), key)
        for path in workdir.rglob("*"):
            if path.is_file() and path.parent != workdir / "etc" / "certs":
                assert not found_in(path.read_bytes(), key), path


@pytest.mark.root
def test_the_processes_that_hold_keys_write_no_core_and_are_closed_to_their_own_user(
    istiod: Istiod, workdir: Path
) -> None:
    with calm(sealed(istiod, workdir)) as agent:
        agent.wait_ready()
        assert agent.process is not None
        holders = [agent.process.pid, agent.actor_pid("cert"), agent.actor_pid("sds")]
        for pid in holders:
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE)
            # The kernel gives these to root where a process may not be dumped: its own user gets EACCES.
            owners = {Path(f"/proc/{pid}/{name}").stat().st_uid for name in ("mem", "fd", "environ")}
            assert owners == {0}
        assert Path(f"/proc/{agent.actor_pid('health')}/mem").stat().st_uid == 1337  # so the owner tells


@pytest.mark.parametrize(("policy", "count"), [("sds", 12), ("hot-restart", 8)])
def test_rotations_one_after_the_other_lose_no_handshake_and_no_request(policy: str, count: int) -> None:
    found = rotations.run(count, policy)
    assert (found.failed_handshakes, found.failed_requests, found.actor_restarts) == ([], [], 0), str(found)
    assert found.handshakes > count
    if policy == "sds":
        assert found.missed == [], str(found)
    else:
        assert 0 <= found.hot_restarts < count, str(found)
