import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from pilot_agent.security import sign_worker
from pilot_agent.security.errors import CaRefused, CaUnavailable
from pilot_agent.security.key_worker import make_key
from pilot_agent.security.pem import blocks
from pilot_agent.security.sign_worker import encode_request, sign
from pilot_agent.security.status_code import go_code_of
from pilot_agent.security.work import KeyMade, KeyParameters, Signed, SignRequest, encode, result, retries_of
from proto_gen.istio.v1.auth.certificate_pb2 import IstioCertificateRequest
from tests.support.small_ca import Authority, SmallCa, pem, provision, public_der, running

ID = "spiffe://cluster.local/ns/default/sa/reviews"
KEY = result(make_key(encode(KeyParameters(spiffe_id=ID, signature_algorithm="ECDSA"))), KeyMade)


@pytest.fixture
def ca() -> Iterator[SmallCa]:
    with running(SmallCa()) as serving:
        yield serving


def request_for(ca: SmallCa, folder: Path, **changes: object) -> SignRequest:
    root, token = provision(folder, ca)
    request = SignRequest(
        csr_pem=KEY.csr_pem,
        address=ca.address,
        server_name="",
        plaintext=False,
        root_path=root,
        token_path=token,
        headers=(("ClusterID", "Kubernetes"), ("X-Extra", "a=b")),
    )
    return request._replace(**changes)  # type: ignore[arg-type]


def signed(request: SignRequest) -> Signed:
    return result(sign(encode(request)), Signed)


def test_a_csr_is_signed_over_tls_with_the_token_and_the_headers(ca: SmallCa, tmp_path: Path) -> None:
    answer = signed(request_for(ca, tmp_path, validity_s=3600, cert_signer="signers.example/x"))

    assert public_der(blocks(answer.chain_pem)[0]) == public_der(KEY.csr_pem)
    assert answer.root_pem == ca.authority.root_pem
    assert answer.chain_pem.endswith(answer.root_pem)
    assert answer.not_after_unix_s == pytest.approx(time.time() + ca.lifetime_s, abs=60)
    assert int(answer.serial_number, 16) > 0
    assert answer.retries == 0
    (sent,) = ca.requests
    assert sent.csr == KEY.csr_pem
    assert sent.validity_duration == 3600
    assert dict(sent.metadata) == {"CertSigner": "signers.example/x"}
    (headers,) = ca.metadata
    assert {
        "clusterid": "Kubernetes",
        "x-extra": "a=b",
        "authorization": "Bearer good-token",
    }.items() <= headers.items()


@pytest.mark.parametrize("policy", ["fips-140-2", "fips-140-3", "unheard-of"])
def test_a_csr_is_signed_under_a_policy(ca: SmallCa, tmp_path: Path, policy: str) -> None:
    assert signed(request_for(ca, tmp_path, compliance_policy=policy)).serial_number


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO >= (3, 5), reason="this OpenSSL can keep the policy")
def test_a_policy_that_cannot_be_kept_is_said_and_the_ca_is_not_asked(ca: SmallCa, tmp_path: Path) -> None:
    with pytest.raises(CaUnavailable, match=r"OpenSSL .* has no key exchange X25519MLKEM768"):
        signed(request_for(ca, tmp_path, compliance_policy="pqc"))
    assert not ca.requests


def test_a_header_that_cannot_be_sent_is_named_and_its_value_is_not(ca: SmallCa, tmp_path: Path) -> None:
    with pytest.raises(CaUnavailable, match="header 'x-extra' cannot be sent") as refusal:
        signed(request_for(ca, tmp_path, headers=(("X-Extra", "secret\nwords"),)))
    assert "secret" not in str(refusal.value)


def test_the_request_says_on_the_wire_what_the_generated_message_says() -> None:
    ours = IstioCertificateRequest.FromString(encode_request("csr", 60, ""))
    assert ours == IstioCertificateRequest(csr="csr", validity_duration=60, metadata={"CertSigner": ""})


def test_an_unavailable_ca_is_asked_again_and_the_retries_are_counted(ca: SmallCa, tmp_path: Path) -> None:
    ca.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    answer = signed(request_for(ca, tmp_path))
    assert answer.retries == 2
    assert len(ca.requests) == 3


def test_a_refusal_is_not_asked_again(ca: SmallCa, tmp_path: Path) -> None:
    ca.failures = [grpc.StatusCode.PERMISSION_DENIED]
    outcome = sign(encode(request_for(ca, tmp_path)))
    with pytest.raises(
        CaRefused, match="create certificate: rpc error: code = PermissionDenied desc = as the test"
    ):
        result(outcome, Signed)
    assert retries_of(outcome) == 0
    assert len(ca.requests) == 1


def test_a_ca_that_is_down_is_given_up_after_five_attempts(
    ca: SmallCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, not listening: nobody can answer there
        taken.bind(("127.0.0.1", 0))
        request = request_for(ca, tmp_path, address=f"127.0.0.1:{taken.getsockname()[1]}")
        outcome = sign(encode(request))
    with pytest.raises(CaUnavailable, match="create certificate: rpc error: code = Unavailable desc = "):
        result(outcome, Signed)
    assert retries_of(outcome) == 4


def test_a_ca_that_does_not_answer_is_given_up_at_the_deadline(
    ca: SmallCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_worker, "ATTEMPT_DEADLINE_S", 0.2)
    monkeypatch.setattr(sign_worker, "ATTEMPTS", 2)
    ca.hold = threading.Event()
    with pytest.raises(CaUnavailable, match="code = DeadlineExceeded"):
        signed(request_for(ca, tmp_path))


@pytest.mark.parametrize("length", [0, 1])
def test_a_chain_without_leaf_and_root_is_refused(ca: SmallCa, tmp_path: Path, length: int) -> None:
    ca.answer_chain = [ca.authority.root_pem] * length
    with pytest.raises(CaRefused, match=f"invalid empty CertChain: got={length}"):
        signed(request_for(ca, tmp_path))


def test_a_certificate_for_another_key_is_refused(ca: SmallCa, tmp_path: Path) -> None:
    ca.sign_another_key = True
    with pytest.raises(CaRefused, match="does not belong to the key of the CSR"):
        signed(request_for(ca, tmp_path))


def test_a_certificate_that_is_none_is_refused(ca: SmallCa, tmp_path: Path) -> None:
    ca.answer_chain = ["no certificate", ca.authority.root_pem]
    with pytest.raises(CaRefused, match="failed to parse the certificate of the CA"):
        signed(request_for(ca, tmp_path))


def test_a_certificate_that_has_expired_already_is_refused(ca: SmallCa, tmp_path: Path) -> None:
    ca.lifetime_s = -60
    with pytest.raises(CaRefused, match="has expired already, at 20"):
        signed(request_for(ca, tmp_path))


def test_without_a_token_file_there_is_a_warning_and_no_header(
    ca: SmallCa, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ca.check_token = False
    signed(request_for(ca, tmp_path, token_path=str(tmp_path / "gone")))
    assert "authorization" not in ca.metadata[0]
    assert "warn\tfailed to fetch token from file: [Errno 2] No such file" in capfd.readouterr().out


def test_a_token_that_the_ca_does_not_take_is_a_refusal_and_the_token_is_not_in_its_text(
    ca: SmallCa, tmp_path: Path
) -> None:
    request = request_for(ca, tmp_path)
    Path(request.token_path).write_text("stolen")
    with pytest.raises(CaRefused, match="code = Unauthenticated desc = authentication failure") as refusal:
        signed(request)
    assert "stolen" not in str(refusal.value)


def test_a_ca_with_a_certificate_of_another_root_is_not_trusted(ca: SmallCa, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(Authority("other").root_pem)
    with pytest.raises(CaUnavailable, match="code = Unavailable"):
        signed(request_for(ca, tmp_path, root_path=str(other)))
    assert not ca.requests


@pytest.mark.parametrize(
    "content", [None, "", "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"]
)
def test_a_broken_root_file_is_named(ca: SmallCa, tmp_path: Path, content: str | None) -> None:
    broken = tmp_path / "broken.pem"
    if content is not None:
        broken.write_text(content)
    with pytest.raises(CaUnavailable, match=r"root CA file .*broken.pem is unusable"):
        signed(request_for(ca, tmp_path, root_path=str(broken)))


def test_localhost_stands_for_istiods_name_and_an_override_wins(ca: SmallCa, tmp_path: Path) -> None:
    port = ca.address.rpartition(":")[2]
    assert signed(request_for(ca, tmp_path, address=f"localhost:{port}")).serial_number
    with pytest.raises(CaUnavailable, match="code = Unavailable"):
        signed(request_for(ca, tmp_path, server_name="elsewhere.example"))


def test_a_provisioned_certificate_authenticates_and_an_expired_one_is_left_to_the_token(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(SmallCa(require_client_certificate=True)) as strict:
        paths = {"client_cert_path": str(tmp_path / "cert.pem"), "client_key_path": str(tmp_path / "key.pem")}
        request = request_for(strict, tmp_path, **paths)

        def provide(lifetime_s: float) -> None:
            key, chain = strict.authority.workload_pair(ID, lifetime_s)
            (tmp_path / "key.pem").write_text(key)
            (tmp_path / "cert.pem").write_text(chain)

        with pytest.raises(CaUnavailable):
            signed(request)
        provide(-60)
        with pytest.raises(CaUnavailable):
            signed(request)
        provide(600)
        assert signed(request).serial_number
        assert len(strict.requests) == 1
    lines = capfd.readouterr().out
    assert "warn\tcitadelclient\tcannot load client certificate, use the token: [Errno 2]" in lines
    assert "cert.pem expired at 20" in lines


def test_a_chain_of_three_keeps_its_order_and_ends_with_the_root(ca: SmallCa, tmp_path: Path) -> None:
    between = pem(
        ca.authority.issue(Authority("between").key.public_key(), lifetime_s=999, is_ca=True)
    ).rstrip("\n")
    leaf, root = ca.sign(KEY.csr_pem)
    ca.answer_chain = [leaf, between, root]
    answer = signed(request_for(ca, tmp_path))
    assert blocks(answer.chain_pem) == [part.strip() for part in (leaf, between, root)]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.CANCELLED, "Canceled"),
        (grpc.StatusCode.UNAVAILABLE, "Unavailable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DeadlineExceeded"),
        (grpc.StatusCode.OK, "OK"),
        (grpc.StatusCode.INVALID_ARGUMENT, "InvalidArgument"),
    ],
)
def test_status_codes_are_written_as_go_writes_them(code: grpc.StatusCode, text: str) -> None:
    assert go_code_of(code.value[0]) == text


def test_status_codes_of_messages_are_numbers_and_unknown_ones_stay_so() -> None:
    assert [go_code_of(number) for number in (0, 13, 99)] == ["OK", "Internal", "Code(99)"]
