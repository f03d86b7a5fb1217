"""SdsActor with a real gRPC client on its Unix socket, alone and together with CertActor and a small CA."""

import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from actors.cert import CertActor
from actors.messages.cert import GetSecret, IdentityRotated, RotateNow, SecretFailed, SecretReady
from actors.messages.control import LeaveEstate, PeerRestarted
from actors.runtime.roles import Role
from actors.sds import SdsActor, SdsState
from tests.support.sds_client import SdsClient
from tests.support.security import ActorBench, security_options
from tests.support.small_ca import SmallCa, running
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    import pykka

    from tests.support.context import FakeContext


def pair(number: int, *, left_s: float = 3600.0) -> SecretReady:
    return SecretReady(
        resource_name="default",
        version_info=f"2026-01-01T00:00:00Z/{number}",
        certificate_chain_pem=b"chain %d" % number,
        private_key_pem=b"key %d" % number,
        not_after_unix_s=time.time() + left_s,
    )


ROOTS = SecretReady(resource_name="ROOTCA", version_info="2026-01-01T00:00:00Z/7", trusted_ca_pem=b"roots")


def bench(folder: Path, **changes: object) -> ActorBench:
    return ActorBench(Role.SDS, SdsActor.start, security_options(folder, None, **changes))


@pytest.fixture
def sds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ActorBench]:
    monkeypatch.chdir(tmp_path)
    made = bench(tmp_path)
    yield made
    made.end()


@pytest.fixture
def client() -> Iterator[SdsClient]:
    with SdsClient("uds/socket") as made:
        yield made


def test_it_is_ready_when_the_socket_is_there_for_everybody(
    sds: ActorBench, capfd: pytest.CaptureFixture[str]
) -> None:
    sds.start()
    assert stat.S_IMODE(Path("uds/socket").stat().st_mode) == 0o666
    lines = capfd.readouterr().out
    assert "info\tStarting default Istio SDS Server" in lines
    assert "info\tsds\tStarting SDS grpc server" in lines
    assert 'Starting SDS server for workload certificates, will listen on "uds/socket"' in lines


def test_what_is_missing_is_asked_of_cert_actor_and_sent_when_it_comes(
    sds: ActorBench, client: SdsClient
) -> None:
    sds.start()
    stream = client.stream()
    stream.names("default")
    assert sds.wait_sent(GetSecret) == [GetSecret(resource_name="default")]
    sds.tell(pair(1))
    assert stream.secrets()["default"].tls_certificate.private_key.inline_bytes == b"key 1"


def test_new_material_is_pushed_and_the_same_again_is_not(sds: ActorBench, client: SdsClient) -> None:
    sds.start()
    first = pair(1)
    sds.tell(first)
    stream = client.stream()
    stream.names("default")
    stream.response()
    sds.tell(first)
    sds.tell(pair(2))
    assert stream.response().version_info.endswith("/2")
    assert stream.nothing_waits()
    assert not sds.all_sent(GetSecret)


def test_a_failure_of_cert_actor_reaches_envoy_in_the_references_words(
    sds: ActorBench, client: SdsClient
) -> None:
    sds.start()
    stream = client.stream()
    stream.names("default")
    sds.wait_sent(GetSecret)
    sds.tell(SecretFailed(resource_name="default", reason="failed to generate workload certificate: no"))
    assert stream.status() == (
        grpc.StatusCode.UNKNOWN,
        "failed to generate secret for default: failed to generate workload certificate: no",
    )


def test_a_question_that_died_with_cert_actor_is_asked_again_at_once(
    sds: ActorBench, client: SdsClient
) -> None:
    sds.start()
    client.stream().names("default")
    sds.wait_sent(GetSecret)
    sds.tell(PeerRestarted(role="cert", incarnation=2))
    sds.wait_sent(GetSecret, 2)


def test_after_a_kill_envoy_is_answered_at_once_with_the_same_versions_and_nobody_is_asked(
    sds: ActorBench, client: SdsClient
) -> None:
    sds.start()
    sds.tell(pair(4))
    sds.tell(ROOTS)
    stream = client.stream()
    stream.names("default")
    before = stream.response()
    sds.kill()

    sds.start()
    again = client.stream()
    with SdsClient("uds/socket") as later:
        again = later.stream()
        again.names("default", nonce=before.nonce)
        after = again.response()
        assert (after.version_info, after.resources) == (before.version_info, before.resources)
        again.names("ROOTCA")
        assert again.response().version_info == ROOTS.version_info
    assert not sds.all_sent(GetSecret)


def test_a_notebook_of_another_format_is_ignored(sds: ActorBench, client: SdsClient) -> None:
    sds.notebook.save(SdsState(format=99))
    sds.start()
    client.stream().names("default")
    sds.wait_sent(GetSecret)


def test_a_socket_that_cannot_be_bound_is_tried_again_and_the_agent_goes_on(
    sds: ActorBench, client: SdsClient, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("uds").write_text("in the way")
    sds.start()
    for _ in range(7):
        sds.context.advance(16.0)
        sds.settle()
    assert (
        "warn\tsds\tSDS grpc server could not be started: cannot listen on uds/socket"
        in capfd.readouterr().out
    )
    Path("uds").unlink()
    sds.context.advance(16.0)
    sds.tell(pair(1))
    stream = client.stream()
    stream.names("default")
    assert set(stream.secrets()) == {"default"}


def test_a_list_of_revoked_certificates_goes_with_the_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crl.pem").write_text("x")
    sds = bench(tmp_path, crl_path="crl.pem")
    sds.start()
    sds.tell(ROOTS)
    with SdsClient("uds/socket") as client:
        stream = client.stream()
        stream.names("ROOTCA")
        context = stream.secrets()["ROOTCA"].validation_context
    assert (context.trusted_ca.inline_bytes, context.crl.filename) == (b"roots", "crl.pem")
    sds.end()


def test_at_the_end_the_socket_is_gone(sds: ActorBench) -> None:
    sds.start()
    sds.end()
    assert not Path("uds/socket").exists()


@pytest.fixture
def ca() -> Iterator[SmallCa]:
    with running(SmallCa()) as serving:
        yield serving


class Pair:
    """Both actors, each sending to the other."""

    def __init__(self, folder: Path, ca: SmallCa) -> None:
        options = security_options(folder, ca)
        self.cert = ActorBench(Role.CERT, self._start_cert, options)
        self.sds = ActorBench(Role.SDS, SdsActor.start, options)
        self.cert.on_send = lambda to, message: self.sds.tell(message) if to is Role.SDS else None
        self.sds.on_send = lambda _to, message: self.cert.tell(message)

    def _start_cert(self, context: "FakeContext") -> "pykka.ActorRef[CertActor]":
        return CertActor.start(context, now=self.cert.now, draw=lambda: 0.5)


@pytest.fixture
def both(tmp_path: Path, ca: SmallCa, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.chdir(tmp_path)
    made = Pair(tmp_path, ca)
    made.sds.start()
    made.cert.start()
    yield made
    made.cert.end()
    made.sds.end()


def test_envoy_gets_pair_and_roots_that_belong_together_and_a_rotation_by_push(
    both: Pair, ca: SmallCa, client: SdsClient
) -> None:
    pairs, roots = client.stream(), client.stream()
    pairs.names("default")
    roots.names("ROOTCA")
    first = pairs.secrets()["default"].tls_certificate
    trusted = roots.secrets()["ROOTCA"].validation_context.trusted_ca.inline_bytes
    assert trusted.strip() in first.certificate_chain.inline_bytes
    pairs.ack("default")

    both.cert.tell(RotateNow(reason="operator"))
    second = pairs.secrets()["default"].tls_certificate
    assert second.private_key.inline_bytes != first.private_key.inline_bytes
    both.cert.wait_sent(IdentityRotated)
    assert roots.nothing_waits()
    assert len(ca.requests) == 2


def test_while_the_ca_is_down_envoy_keeps_getting_the_certificate_at_hand(
    both: Pair, ca: SmallCa, client: SdsClient
) -> None:
    stream = client.stream()
    stream.names("default")
    first = stream.response()
    ca.failures = [grpc.StatusCode.PERMISSION_DENIED] * 3
    both.cert.tell(RotateNow(reason="operator"))
    wait_for(lambda: len(ca.requests) == 2, what="the failed rotation")
    both.cert.settle()
    later = client.stream()
    later.names("default")
    assert later.response().version_info == first.version_info
    assert stream.nothing_waits()


def test_a_ca_that_comes_late_is_seen_by_the_waiting_envoy_without_a_new_question(
    tmp_path: Path, ca: SmallCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ca.failures = [grpc.StatusCode.PERMISSION_DENIED]
    made = Pair(tmp_path, ca)
    made.sds.start()
    made.cert.start()
    wait_for(lambda: len(ca.requests) == 1, what="the refusal")
    made.cert.settle()
    with SdsClient("uds/socket") as client:
        stream = client.stream()
        stream.names("ROOTCA")
        made.sds.wait_sent(GetSecret)
        made.cert.settle()
        made.cert.context.advance(1.0)
        assert set(stream.secrets()) == {"ROOTCA"}
        assert len(made.sds.all_sent(GetSecret)) == 1
    made.cert.end()
    made.sds.end()


def test_a_planned_successor_goes_on_with_the_streams(sds: ActorBench, client: SdsClient) -> None:
    sds.start()
    sds.tell(pair(1))
    stream = client.stream()
    stream.names("default")
    assert b"key 1" in stream.response().SerializeToString()
    stream.ack("default")
    sds.succeed()
    sds.tell(pair(2))
    assert b"key 2" in stream.response().SerializeToString()
    sds.succeed()
    sds.tell(pair(2))
    sds.tell(pair(3))
    assert b"key 3" in stream.response().SerializeToString()
    assert stream.nothing_waits()


def test_a_stream_that_waits_for_a_secret_waits_on_with_the_successor(
    sds: ActorBench, client: SdsClient
) -> None:
    sds.start()
    stream = client.stream()
    stream.names("default")
    sds.wait_sent(GetSecret)
    sds.succeed()
    assert sds.wait_sent(GetSecret) == [GetSecret(resource_name="default")]
    sds.tell(pair(1))
    assert stream.secrets()["default"].tls_certificate.private_key.inline_bytes == b"key 1"


def test_a_secret_that_comes_between_two_incarnations_is_pushed_by_the_second(
    sds: ActorBench, client: SdsClient
) -> None:
    sds.start()
    sds.tell(pair(1))
    stream = client.stream()
    stream.names("default")
    stream.response()
    sds.tell(LeaveEstate(patience_s=5.0))
    sds.tell(pair(2))  # kept in the notebook, and sent to nobody any more
    sds.settle()
    sds.follow()
    assert stream.response().version_info.endswith("/2")
