"""CertActor with real workers and a real small CA over TLS; only its clock is the test's."""

import re
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from msgspec.structs import replace

from actors.cert import CertActor
from actors.messages.cert import GetSecret, IdentityRotated, RotateNow, SecretFailed, SecretReady, TrustBundle
from actors.messages.control import PeerRestarted
from actors.runtime.context import WorkerFinished
from actors.runtime.roles import Role
from pilot_agent.security.certificate import certificate_facts
from pilot_agent.security.pem import blocks
from pilot_agent.security.work import KeyParameters
from pilot_agent.security.workload import Identity
from tests.support.security import SPIFFE_ID, ActorBench, security_options
from tests.support.small_ca import Authority, SmallCa, running
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    import pykka

    from tests.support.context import FakeContext

DAY_S = 86400.0
TMPFS = Path("/dev/shm")


@pytest.fixture
def ca() -> Iterator[SmallCa]:
    with running(SmallCa()) as serving:
        yield serving


@pytest.fixture
def cert(tmp_path: Path, ca: SmallCa) -> Iterator[ActorBench]:
    made = bench(tmp_path, ca)
    yield made
    made.kill()


def bench(folder: Path, ca: SmallCa | None, **changes: object) -> ActorBench:
    def start(context: "FakeContext") -> "pykka.ActorRef[CertActor]":
        return CertActor.start(context, now=made.now, draw=lambda: 0.5)

    made = ActorBench(Role.CERT, start, security_options(folder, ca, **changes))
    return made


def pairs(cert: ActorBench) -> list[SecretReady]:
    return [secret for secret in cert.all_sent(SecretReady) if secret.resource_name == "default"]


def roots(cert: ActorBench) -> list[SecretReady]:
    return [secret for secret in cert.all_sent(SecretReady) if secret.resource_name == "ROOTCA"]


def has_failed(cert: ActorBench, times: int) -> bool:
    return kept(cert).failures == times


def kept(cert: ActorBench) -> Identity:
    identity = cert.notebook.restore(Identity)
    assert identity is not None
    return identity


def test_the_first_certificate_is_made_unasked_and_announced_with_its_roots(
    cert: ActorBench, ca: SmallCa, capfd: pytest.CaptureFixture[str]
) -> None:
    cert.start()
    pair, root = cert.wait_sent(SecretReady, 2)
    cert.settle()

    assert (pair.resource_name, root.resource_name) == ("default", "ROOTCA")
    assert pair.private_key_pem.startswith(b"-----BEGIN EC PRIVATE KEY-----")
    assert pair.certificate_chain_pem.decode().endswith(ca.authority.root_pem)
    assert pair.not_after_unix_s == pytest.approx(time.time() + DAY_S, abs=60)
    assert pair.version_info.endswith("Z/1")
    assert root.version_info.endswith("Z/2")
    assert root.trusted_ca_pem.decode() == ca.authority.root_pem.strip()
    assert not cert.all_sent(IdentityRotated)
    assert len(ca.requests) == 1
    lines = capfd.readouterr().out
    assert "info\tcache\tgenerated new workload certificate\tresourceName=default latency=" in lines
    assert "info\tcache\tRoot cert has changed, start rotating root cert" in lines
    # A certificate's end is a whole second, so that right after one it may seem to be a full day away.
    assert re.search("info\tcache\treturned workload trust anchor from cache\tttl=(23h59m|24h0m0)", lines)
    assert f"info\tCA Endpoint {ca.address}, provider Citadel" in lines
    assert "PRIVATE KEY" not in lines
    assert "PRIVATE KEY" not in repr(kept(cert)) + repr(pair)
    assert cert.context.counters["num_outgoing_requests,request_type=csr"] == 1
    assert cert.context.counters["outgoing_latency,request_type=csr"] > 0
    expiry_unix_s = cert.context.counters["cert_expiry_unix_s,resource_name=default"]
    assert expiry_unix_s - cert.now() == pytest.approx(DAY_S, abs=60)
    root_ends_unix_s = cert.context.counters["cert_expiry_unix_s,resource_name=ROOTCA"]
    assert root_ends_unix_s == certificate_facts(ca.authority.root_pem).not_after_unix_s
    notes = cert.context.notes
    assert notes["certificate/ROOTCA/serial"] == certificate_facts(ca.authority.root_pem).serial_number
    assert notes["certificate/ROOTCA/rotate_at"] == ""
    assert float(notes["certificate/default/rotate_at"]) < expiry_unix_s


def test_however_many_ask_at_once_one_csr_is_made(cert: ActorBench, ca: SmallCa) -> None:
    ca.hold = threading.Event()
    cert.start()
    for name in ("default", "ROOTCA", "default", "ROOTCA"):
        cert.tell(GetSecret(resource_name=name))
    wait_for(lambda: ca.requests, what="the CSR")
    ca.hold.set()
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    assert len(ca.requests) == 1


def test_what_is_at_hand_is_announced_when_asked(cert: ActorBench, ca: SmallCa) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.tell(GetSecret(resource_name="default"))
    cert.tell(GetSecret(resource_name="ROOTCA"))
    first, first_root, again, again_root = cert.wait_sent(SecretReady, 4)
    assert (again, again_root) == (first, first_root)
    assert len(ca.requests) == 1


def test_a_rotation_comes_at_its_time_with_the_new_certificate_before_the_news_of_it(
    cert: ActorBench, ca: SmallCa
) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    (first,) = pairs(cert)
    due_s = kept(cert).workload.rotate_at_s - cert.now()  # type: ignore[union-attr]
    assert due_s == pytest.approx(DAY_S * (0.5 + 0.01 * 0.5), abs=60)  # draw 0.5: the later side

    cert.context.advance(due_s - 60)
    cert.settle()
    assert len(ca.requests) == 1
    cert.context.advance(61)
    (rotated,) = cert.wait_sent(IdentityRotated)
    cert.settle()

    _, second = pairs(cert)
    assert second.private_key_pem != first.private_key_pem
    assert second.version_info.endswith("/3")
    assert len(roots(cert)) == 1  # the root is the same
    assert rotated.reason == "due"
    assert rotated.serial_number == kept(cert).workload.serial_number  # type: ignore[union-attr]
    order = [type(message) for _, message in cert.context.sent]
    assert order[-2:] == [SecretReady, IdentityRotated]
    assert len(ca.requests) == 2


def test_while_a_rotation_fails_the_old_certificate_is_served_and_it_is_tried_again(
    cert: ActorBench, ca: SmallCa, capfd: pytest.CaptureFixture[str]
) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    ca.failures = [grpc.StatusCode.PERMISSION_DENIED] * 2
    cert.context.advance(DAY_S * 0.51)
    wait_for(lambda: kept(cert).failures == 1, what="the failure")
    cert.tell(GetSecret(resource_name="default"))
    cert.wait_sent(SecretReady, 3)
    cert.settle()

    first, asked = pairs(cert)
    assert asked == first
    assert not cert.all_sent(SecretFailed)
    assert (
        "rotation failed, the certificate at hand is served on: failed to generate" in capfd.readouterr().out
    )
    for failures in (2, 0):
        cert.context.advance(1.0)
        wait_for(partial(has_failed, cert, failures), what="the next attempt")
    cert.wait_sent(IdentityRotated)
    assert pairs(cert)[-1].private_key_pem != first.private_key_pem
    assert len(ca.requests) == 4
    assert cert.context.counters["num_failed_outgoing_requests,request_type=csr"] == 2


def test_an_operator_can_ask_for_a_rotation(cert: ActorBench, ca: SmallCa) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.tell(RotateNow(reason="operator"))
    (rotated,) = cert.wait_sent(IdentityRotated)
    assert rotated.reason == "operator"
    assert len(pairs(cert)) == 2


def test_a_restarted_actor_serves_the_same_certificate_and_does_not_ask_the_ca(
    cert: ActorBench, ca: SmallCa
) -> None:
    cert.start()
    before = cert.wait_sent(SecretReady, 2)
    cert.settle()
    rotate_at_s = kept(cert).workload.rotate_at_s  # type: ignore[union-attr]
    cert.kill()

    cert.start()
    assert cert.wait_sent(SecretReady, 2) == before
    cert.settle()
    assert len(ca.requests) == 1
    assert not cert.all_sent(IdentityRotated)

    cert.context.advance(rotate_at_s - cert.now() + 1)
    cert.wait_sent(IdentityRotated)
    assert len(ca.requests) == 2


def test_a_rotation_that_envoys_actor_was_not_told_of_is_told_after_the_restart(cert: ActorBench) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    cert.kill()
    cert.notebook.save(replace(kept(cert), untold="due"))

    cert.start()
    (rotated,) = cert.wait_sent(IdentityRotated)
    cert.settle()
    assert rotated.serial_number == kept(cert).workload.serial_number  # type: ignore[union-attr]
    assert kept(cert).untold == ""


@pytest.mark.parametrize("how", ["expired", "damaged", "of another identity", "of another format"])
def test_a_notebook_that_is_of_no_use_is_ignored(cert: ActorBench, ca: SmallCa, how: str) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    cert.kill()
    identity = kept(cert)
    workload = identity.workload
    assert workload is not None
    changed = {
        "expired": replace(identity, workload=replace(workload, not_after_s=cert.now() - 1)),
        "damaged": replace(identity, workload=replace(workload, key_pem="garbage")),
        "of another identity": replace(identity, spiffe_id="spiffe://other/ns/a/sa/b"),
        "of another format": replace(identity, format=99),
    }
    cert.notebook.save(changed[how])

    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    assert len(ca.requests) == 2
    assert kept(cert).workload != workload
    assert kept(cert).spiffe_id == SPIFFE_ID


def test_a_ca_that_refuses_fails_those_who_ask_with_its_words_and_is_asked_again_unasked(
    cert: ActorBench, ca: SmallCa
) -> None:
    ca.failures = [grpc.StatusCode.PERMISSION_DENIED]
    ca.hold = threading.Event()
    cert.start()
    cert.tell(GetSecret(resource_name="default"))
    wait_for(lambda: ca.requests, what="the CSR")
    ca.hold.set()
    (failed,) = cert.wait_sent(SecretFailed)
    assert failed.resource_name == "default"
    assert failed.reason == (
        "failed to generate workload certificate: create certificate: rpc error: "
        "code = PermissionDenied desc = as the test wants it"
    )
    cert.settle()
    cert.context.advance(0.75)
    cert.wait_sent(SecretReady, 2)


def test_after_failures_whoever_asks_brings_the_next_attempt_forward_once(
    cert: ActorBench, ca: SmallCa
) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    cert.kill()
    cert.notebook.save(replace(kept(cert), workload=None, failures=20))  # waits of a minute
    ca.failures = [grpc.StatusCode.PERMISSION_DENIED]
    cert.start()
    wait_for(partial(has_failed, cert, 21), what="the failure")
    cert.settle()

    for _ in range(100):
        cert.tell(GetSecret(resource_name="ROOTCA"))
    cert.settle()
    assert len(ca.requests) == 2
    cert.context.advance(1.0)
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    assert len(ca.requests) == 3


def test_without_a_token_the_ca_says_no_and_its_words_reach_who_asked(cert: ActorBench, ca: SmallCa) -> None:
    Path(cert.options.ca.request.token_path).unlink()  # type: ignore[union-attr]
    ca.hold = threading.Event()
    cert.start()
    cert.tell(GetSecret(resource_name="default"))
    wait_for(lambda: ca.requests, what="the CSR")
    ca.hold.set()
    (failed,) = cert.wait_sent(SecretFailed)
    assert "code = Unauthenticated desc = authentication failure" in failed.reason


def test_a_key_that_cannot_be_made_is_said_and_no_request_is_counted(tmp_path: Path, ca: SmallCa) -> None:
    cert = bench(tmp_path, ca, key=KeyParameters(spiffe_id=SPIFFE_ID, signature_algorithm="DSA"))
    cert.start()
    cert.settle()
    cert.tell(GetSecret(resource_name="default"))
    cert.settle()
    cert.context.advance(1.0)
    (failed,) = cert.wait_sent(SecretFailed)
    assert failed.reason.startswith(
        "failed to generate workload certificate: unsupported EC signature algorithm"
    )
    assert "num_failed_outgoing_requests,request_type=csr" not in cert.context.counters
    cert.kill()


def test_a_worker_that_dies_is_a_failure_like_others(cert: ActorBench) -> None:
    def dies(_request: bytes) -> bytes:
        raise RuntimeError("killed by signal 9")

    cert.workers["key"] = dies
    cert.start()
    cert.settle()
    cert.tell(GetSecret(resource_name="default"))
    cert.settle()
    cert.context.advance(1.0)
    (failed,) = cert.wait_sent(SecretFailed)
    assert failed.reason == "failed to generate workload certificate: key worker: killed by signal 9"


def test_a_result_nobody_waits_for_is_dropped(cert: ActorBench) -> None:
    cert.start()
    before = cert.wait_sent(SecretReady, 2)
    cert.tell(WorkerFinished(worker_id=99, kind="sign", result=b"{}", error=""))
    cert.settle()
    assert cert.all_sent(SecretReady) == before


def test_a_trust_bundle_is_merged_at_once_and_the_certificate_renewed_with_one_csr(
    cert: ActorBench, ca: SmallCa
) -> None:
    other = Authority("other").root_pem
    cert.start()
    cert.wait_sent(SecretReady, 2)
    for _ in range(2):
        cert.tell(TrustBundle(ca_certificates_pem=(other,)))
    (rotated,) = cert.wait_sent(IdentityRotated)
    cert.settle()

    expected = sorted(part.strip() for part in (other, ca.authority.root_pem))
    assert blocks(roots(cert)[-1].trusted_ca_pem.decode()) == expected
    assert rotated.reason == "trust_bundle_changed"
    assert len(ca.requests) == 2

    cert.kill()
    cert.start()
    cert.wait_sent(SecretReady, 2)
    assert blocks(roots(cert)[-1].trusted_ca_pem.decode()) == expected
    cert.tell(TrustBundle(ca_certificates_pem=()))
    cert.wait_sent(IdentityRotated)
    assert roots(cert)[-1].trusted_ca_pem.decode() == ca.authority.root_pem.strip()


def test_a_new_root_of_the_ca_is_announced_with_the_rotation(cert: ActorBench, ca: SmallCa) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    serving, ca.authority = ca.authority, Authority("next")
    assert serving is not ca.authority
    cert.tell(RotateNow(reason="operator"))
    cert.wait_sent(IdentityRotated)
    assert roots(cert)[-1].trusted_ca_pem.decode() == ca.authority.root_pem.strip()
    assert roots(cert)[-1].version_info > roots(cert)[0].version_info


def test_a_restarted_sds_actor_is_told_everything_again(cert: ActorBench) -> None:
    cert.start()
    before = cert.wait_sent(SecretReady, 2)
    cert.tell(PeerRestarted(role="sds", incarnation=2))
    assert cert.wait_sent(SecretReady, 4)[2:] == before


def test_without_ca_and_files_the_reason_is_the_references(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cert = bench(tmp_path, None)
    cert.start()
    cert.tell(RotateNow(reason="operator"))
    cert.tell(GetSecret(resource_name="default"))
    (failed,) = cert.wait_sent(SecretFailed)
    assert failed.reason == (
        "failed to generate workload certificate: attempted to fetch secret, but ca client is nil"
    )
    assert "no rotation (operator): certificates come from files" in capfd.readouterr().out
    cert.kill()


def write_files(folder: Path, authority: Authority) -> str:
    key, chain = authority.workload_pair(SPIFFE_ID)
    (folder / "certs").mkdir(exist_ok=True)
    for name, text in (("key", key), ("cert-chain", chain), ("root-cert", authority.root_pem)):
        (folder / "certs" / f"{name}.pem").write_text(text)
    return key


def test_certificates_in_files_are_served_without_the_ca_and_a_change_is_a_rotation(
    cert: ActorBench, ca: SmallCa, tmp_path: Path
) -> None:
    key = write_files(tmp_path, ca.authority)
    cert.start()
    cert.tell(GetSecret(resource_name="default"))
    cert.tell(GetSecret(resource_name="ROOTCA"))
    cert.wait_sent(SecretReady, 2)
    assert pairs(cert)[0].private_key_pem.decode() == key
    assert roots(cert)[0].trusted_ca_pem.decode() == ca.authority.root_pem.strip()
    assert not ca.requests

    cert.kill()
    cert.start()  # reads again what it had served; nothing has changed
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    assert not cert.all_sent(IdentityRotated)

    key = write_files(tmp_path, ca.authority)
    cert.context.advance(6.0)
    (rotated,) = cert.wait_sent(IdentityRotated)
    assert rotated.reason == "file_changed"
    assert pairs(cert)[-1].private_key_pem.decode() == key
    assert pairs(cert)[-1].version_info != pairs(cert)[0].version_info


def test_files_that_do_not_belong_together_are_an_error_and_not_the_cas_business(
    tmp_path: Path, ca: SmallCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert = bench(tmp_path, ca)
    monkeypatch.setattr("actors.cert_files.READ_LIMIT_S", 0.05)
    write_files(tmp_path, ca.authority)
    (tmp_path / "certs" / "key.pem").write_text(ca.authority.workload_pair(SPIFFE_ID)[0])
    cert.start()
    cert.tell(GetSecret(resource_name="default"))
    (failed,) = cert.wait_sent(SecretFailed)
    assert "context deadline exceeded with last error: " in failed.reason
    assert cert.context.counters["num_file_secret_failures_total"] == 1
    assert not ca.requests
    cert.kill()


def touched(cert: ActorBench) -> None:
    """Wait until the watch has asked for a look, and let it come."""
    wait_for(
        lambda: any(timer.due_s - cert.context.now_s < 1 for timer in cert.context.timers), what="a look"
    )
    cert.context.advance(1.0)


def test_a_key_that_comes_a_minute_after_its_certificate_is_taken_and_the_old_pair_served_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.cert_files.READ_LIMIT_S", 0.05)
    authority = Authority()
    cert = bench(tmp_path, None)
    first = write_files(tmp_path, authority)
    cert.start()
    cert.tell(GetSecret(resource_name="default"))
    cert.wait_sent(SecretReady)
    key, chain = authority.workload_pair(SPIFFE_ID)
    (tmp_path / "certs" / "cert-chain.pem").write_text(chain)
    touched(cert)
    cert.wait_sent(SecretFailed)
    for _ in range(11):
        cert.context.advance(5.0)
        cert.settle()
    assert len(cert.all_sent(SecretFailed)) == 1  # not read again and again while nothing changes
    assert "key.pem does not belong to" in capfd.readouterr().out
    (tmp_path / "certs" / "key.pem").write_text(key)
    touched(cert)
    cert.wait_sent(SecretReady, 2)
    assert [each.private_key_pem.decode() for each in pairs(cert)] == [first, key]
    cert.kill()


def test_a_hundred_changes_of_a_file_pair_are_all_followed_by_the_watch(tmp_path: Path) -> None:
    authority = Authority()
    write_files(tmp_path, authority)
    folder = tmp_path / "certs"
    name = f"file-cert:{folder}/cert-chain.pem~{folder}/key.pem"
    cert = bench(tmp_path, None)
    cert.start()
    cert.tell(GetSecret(resource_name=name))
    cert.wait_sent(SecretReady)
    for number in range(2, 102):
        key = write_files(tmp_path, authority)

        def arrived(key: str = key) -> bool:
            cert.context.advance(0.2)
            cert.settle()
            return any(each.private_key_pem.decode() == key for each in cert.all_sent(SecretReady))

        wait_for(arrived, what=f"pair {number}")
    assert len(cert.all_sent(IdentityRotated)) >= 100  # its files are all the identity it has
    cert.kill()


def test_an_expired_certificate_in_files_is_served_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key, chain = Authority().workload_pair(SPIFFE_ID, -60.0)
    write_files(tmp_path, Authority())
    (tmp_path / "certs" / "cert-chain.pem").write_text(chain)
    (tmp_path / "certs" / "key.pem").write_text(key)
    cert = bench(tmp_path, None)
    cert.start()
    cert.tell(GetSecret(resource_name="default"))
    (ready,) = cert.wait_sent(SecretReady)
    assert ready.private_key_pem.decode() == key
    assert "the certificate of default has expired" in capfd.readouterr().out
    cert.settle()
    assert cert.context.counters["cert_expiry_unix_s,resource_name=default"] == pytest.approx(
        time.time() - 60, abs=30
    )
    assert cert.context.notes["certificate/default/serial"] == certificate_facts(chain).serial_number
    cert.kill()


@pytest.mark.parametrize(
    "trouble", ["garbage", "binary", "directory", "empty", "wrong order", "missing", "endless", "expired"]
)
def test_files_that_cannot_be_used_are_an_error_that_names_them_and_the_last_good_pair_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr("actors.cert_files.READ_LIMIT_S", 0.05)
    authority = Authority()
    write_files(tmp_path, authority)
    chain = tmp_path / "certs" / "cert-chain.pem"
    name = f"file-cert:{chain}~{chain.with_name('key.pem')}"
    cert = bench(tmp_path, None, file_debounce_s=0.0)
    cert.start()
    cert.tell(GetSecret(resource_name=name))
    cert.wait_sent(SecretReady)
    leaf, root = blocks(chain.read_text())
    texts = {"garbage": "garbage", "empty": "", "wrong order": f"{root}\n{leaf}"}
    if trouble == "binary":
        chain.write_bytes(b"\xff\xfe")
    elif trouble in texts:
        chain.write_text(texts[trouble])
    elif trouble == "expired":
        key, expired = authority.workload_pair(SPIFFE_ID, -60.0)
        chain.with_name("key.pem").write_text(key)
        chain.write_text(expired)
    elif trouble == "endless":
        chain.unlink()
        chain.symlink_to("/dev/zero")
    else:
        chain.unlink()
        if trouble == "directory":
            chain.mkdir()
    touched(cert)
    (failed,) = cert.wait_sent(SecretFailed)
    assert str(chain) in failed.reason
    assert len(cert.all_sent(SecretReady)) == 1
    if trouble == "directory":
        chain.rmdir()
    if trouble == "endless":
        chain.unlink()
    write_files(tmp_path, authority)

    def healed() -> bool:
        cert.context.advance(0.2)
        cert.settle()
        return len(cert.all_sent(SecretReady)) > 1

    wait_for(healed, what="the next good pair")
    cert.kill()


def test_files_that_are_gone_are_told_once(
    tmp_path: Path, ca: SmallCa, capfd: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, ca.authority)
    cert = bench(tmp_path, ca)
    cert.start()
    cert.tell(GetSecret(resource_name="default"))
    cert.wait_sent(SecretReady)
    (tmp_path / "certs" / "key.pem").unlink()
    for _ in range(4):
        cert.context.advance(5.0)
        cert.settle()
    said = re.findall(r"certificate files of default are gone, .*: (.*)", capfd.readouterr().out)
    assert said == [str(tmp_path / "certs" / "key.pem")]
    cert.kill()


def test_our_own_output_directory_is_no_source(tmp_path: Path, ca: SmallCa) -> None:
    write_files(tmp_path, ca.authority)
    cert = bench(tmp_path, ca, output_directory=str(tmp_path / "certs"))
    cert.start()
    cert.wait_sent(SecretReady, 2)
    assert len(ca.requests) == 1
    cert.kill()


def served(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / name).read_bytes() for name in ("key.pem", "cert-chain.pem", "root-cert.pem"))


def test_output_certs_follow_every_rotation_and_have_the_merged_roots(tmp_path: Path, ca: SmallCa) -> None:
    output = tmp_path / "output"
    cert = bench(tmp_path, ca, output_directory=str(output))
    try:
        cert.start()
        cert.wait_sent(SecretReady, 2)
        cert.settle()
        assert not output.exists()  # it has to be there: nobody makes it
        output.mkdir()
        cert.context.advance(6.0)
        wait_for((output / "key.pem").exists, what="the set, once its directory has come")
        (pair,), (root,) = pairs(cert), roots(cert)
        assert served(output) == (pair.private_key_pem, pair.certificate_chain_pem, root.trusted_ca_pem)

        other = Authority("other")
        cert.tell(TrustBundle(ca_certificates_pem=(other.root_pem,)))
        cert.wait_sent(IdentityRotated)
        cert.tell(RotateNow(reason="operator"))
        cert.wait_sent(IdentityRotated, 2)
        cert.settle()
        pair, root = pairs(cert)[-1], roots(cert)[-1]
        assert served(output) == (pair.private_key_pem, pair.certificate_chain_pem, root.trusted_ca_pem)
        assert other.root_pem.strip() in (output / "root-cert.pem").read_text()
    finally:
        cert.kill()


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=TMPFS) as made:
        yield Path(made)


def test_the_next_container_serves_the_kept_identity_while_the_ca_is_down(
    tmp_path: Path, memory: Path, ca: SmallCa, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (bench(tmp_path, ca, kept_directory=str(memory)) for _ in range(2))
    try:
        first.start()
        before = first.wait_sent(SecretReady, 2)
        first.settle()
        first.kill()

        ca.failures = [grpc.StatusCode.UNAVAILABLE] * 99
        second.start()
        assert second.wait_sent(SecretReady, 2) == before
        second.settle()
        assert len(ca.requests) == 1
        assert f"serving the identity that was kept in {memory}/identity.kept" in capfd.readouterr().out
        assert not second.all_sent(IdentityRotated)
        ca.failures = []
        second.context.advance(DAY_S * 0.51)
        assert second.wait_sent(IdentityRotated)[0].reason == "due"
        assert (memory / "identity.kept").exists()
        second.forget()
        assert not (memory / "identity.kept").exists()
    finally:
        first.kill()
        second.kill()


def test_on_a_disk_no_identity_is_kept_and_the_log_says_so_once(
    tmp_path: Path, ca: SmallCa, capfd: pytest.CaptureFixture[str]
) -> None:
    cert = bench(tmp_path, ca, kept_directory=str(tmp_path))
    try:
        cert.start()
        cert.wait_sent(SecretReady, 2)
        cert.tell(RotateNow(reason="operator"))
        cert.wait_sent(IdentityRotated)
        lines = capfd.readouterr().out
        assert "no identity of an earlier container: " in lines
        assert lines.count("the identity is not kept for a start while the CA is down: ") == 1
        assert not (tmp_path / "identity.kept").exists()
    finally:
        cert.kill()


def test_a_clock_set_back_a_day_renews_the_certificate_and_set_right_again_once_more(
    cert: ActorBench, ca: SmallCa
) -> None:
    cert.start()
    cert.wait_sent(SecretReady, 2)
    cert.settle()
    cert.base_s -= DAY_S
    cert.context.advance(6.0)
    cert.wait_sent(IdentityRotated)
    cert.settle()
    due_s = kept(cert).workload.rotate_at_s - cert.now()  # type: ignore[union-attr]
    assert due_s < DAY_S  # by the certificate's own lifetime, not by the two days that the clock sees

    cert.base_s += DAY_S
    cert.context.advance(6.0)
    cert.wait_sent(IdentityRotated, 2)
    assert len(ca.requests) == 3


def test_after_a_suspend_of_a_day_there_is_a_new_certificate_at_the_next_look(
    cert: ActorBench, ca: SmallCa
) -> None:
    """The wall clock is a day ahead and stays so; timers have not run meanwhile."""
    cert.start()
    (old, _) = cert.wait_sent(SecretReady, 2)
    cert.settle()
    ca.lifetime_s = 3 * DAY_S  # signed after the suspend
    cert.base_s += DAY_S + 60  # the one at hand has expired by now
    cert.context.advance(6.0)
    cert.wait_sent(IdentityRotated)
    new = pairs(cert)[-1]
    assert new.certificate_chain_pem != old.certificate_chain_pem
    assert new.not_after_unix_s > cert.now()
    assert len(ca.requests) == 2


def test_a_clock_that_jumps_forward_and_back_costs_no_valid_certificate(
    cert: ActorBench, ca: SmallCa
) -> None:
    cert.start()
    (pair, _) = cert.wait_sent(SecretReady, 2)
    cert.settle()
    ca.failures = [grpc.StatusCode.UNAVAILABLE] * 99
    cert.base_s += 2 * DAY_S
    cert.context.advance(6.0)
    cert.tell(GetSecret(resource_name="default"))
    cert.wait_sent(SecretFailed)
    cert.kill()
    cert.start()  # the notebook's certificate seems to have expired
    cert.base_s -= 2 * DAY_S
    cert.context.advance(6.0)
    cert.tell(GetSecret(resource_name="default"))
    wait_for(lambda: pairs(cert), what="the certificate")
    assert pairs(cert)[-1] == pair


@pytest.mark.parametrize("trouble", ["no token", "empty token", "wrong token", "garbage"])
def test_whatever_was_wrong_with_the_token_it_heals_within_a_minute(
    tmp_path: Path, cert: ActorBench, ca: SmallCa, trouble: str, capfd: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "istio-token"
    good = token.read_text()
    texts = {"empty token": "\n", "wrong token": "other", "garbage": "a b\x01\u00e9"}
    if trouble in texts:
        token.write_text(texts[trouble])
    else:
        token.unlink()
    cert.start()
    wait_for(lambda: cert.notebook.restore(Identity) and has_failed(cert, 1), what="the refusal")
    cert.settle()
    lines = capfd.readouterr().out
    assert "failed to warm certificate: failed to generate workload certificate: create certificate" in lines
    said = {"no token": "failed to fetch token", "empty token": "is empty", "garbage": "holds no token but"}
    assert said.get(trouble, "authentication failure") in lines
    token.write_text(good)
    cert.context.advance(60.0)
    cert.wait_sent(SecretReady, 2)


def test_a_certificate_for_another_workload_is_refused_and_for_a_new_trust_domain_taken(
    tmp_path: Path, ca: SmallCa, capfd: pytest.CaptureFixture[str]
) -> None:
    options = security_options(tmp_path, ca).ca
    assert options is not None
    for workload, is_taken in (("/ns/default/sa/other", False), ("/ns/default/sa/reviews", True)):
        mine = options.request._replace(workload=workload)
        cert = bench(tmp_path, ca)
        cert.options = replace(cert.options, ca=replace(options, request=mine))
        cert.start()
        if is_taken:
            cert.wait_sent(SecretReady, 2)
        else:
            wait_for(lambda: has_failed(cert, 1), what="the refusal")  # noqa: B023
            cert.settle()
            assert "the CA's certificate is for another identity: got=" in capfd.readouterr().out
        cert.kill()
