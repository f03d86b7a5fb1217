"""The lab's istiod over real gRPC: who may come in, what is signed, what its switches do."""

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from lab.authority import KeyPair
from lab.istiod import Istiod
from lab.mesh import BOOKINFO, load_mesh
from lab.replay import recorded_messages, recorded_world
from lab.snapshot import CDS, HEALTH, LDS, NDS, PCDS
from proto_gen.istio.mesh.v1alpha1 import proxy_config_pb2
from proto_gen.istio.networking.nds.v1 import name_table_pb2
from proto_gen.istio.v1.auth import certificate_pb2

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings"
ACCOUNT = "bookinfo-apps"
SPIFFE_ID = f"spiffe://cluster.local/ns/default/sa/{ACCOUNT}"
NODE = {"id": "sidecar~127.0.0.1~app-1.default~default.svc.cluster.local"}
SOTW = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
SIGN = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@pytest.fixture(scope="module")
def shared() -> Iterator[Istiod]:
    with Istiod(load_mesh(), plaintext=True) as istiod:
        yield istiod


@pytest.fixture
def istiod() -> Iterator[Istiod]:
    with Istiod(load_mesh(), plaintext=True) as istiod:
        yield istiod


class Client:
    """One ADS stream; `send` and `receive` by hand."""

    def __init__(self, istiod: Istiod, method: str = SOTW, *, tls: bool = False, token: str = "") -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        channel: Any = secure(istiod) if tls else grpc.insecure_channel(istiod.plaintext_address)
        headers = (("authorization", f"Bearer {token}"),) if token else ()
        self._call: Any = channel.stream_stream(method)(iter(self._queue.get, None), metadata=headers)
        self._channel, self._is_delta = channel, method == DELTA

    def send(self, type_url: str, **members: Any) -> None:
        kind = discovery_pb2.DeltaDiscoveryRequest if self._is_delta else discovery_pb2.DiscoveryRequest
        self._queue.put(kind(type_url=type_url, **members).SerializeToString())

    def receive_bytes(self) -> bytes:
        return bytes(next(self._call))

    def receive(self) -> Any:
        kind = discovery_pb2.DeltaDiscoveryResponse if self._is_delta else discovery_pb2.DiscoveryResponse
        return kind.FromString(self.receive_bytes())

    def code(self) -> grpc.StatusCode:
        return self._call.code()  # type: ignore[no-any-return] # Any: the stubs have no multi-callable here

    def close(self) -> None:
        self._queue.put(None)
        self._call.cancel()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def secure(istiod: Istiod, pair: KeyPair | None = None) -> Any:  # Any: the stubs want serializers always
    credentials = grpc.ssl_channel_credentials(
        istiod.root_pem.encode(),
        pair.private_key_pem if pair else None,
        pair.certificate_chain_pem if pair else None,
    )
    options = (("grpc.ssl_target_name_override", "istiod.istio-system.svc"),)
    return grpc.secure_channel(istiod.address, credentials, options)


def csr(*names: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(one) for one in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(san, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def sign(
    istiod: Istiod, csr_pem: str, token: str | None = None, *, timeout_s: float = 5.0, validity_s: int = 600
) -> list[x509.Certificate]:
    if token is None:
        token = istiod.mint_token("default", ACCOUNT)
    request = certificate_pb2.IstioCertificateRequest(csr=csr_pem, validity_duration=validity_s)
    request.metadata["CertSigner"] = "some-signer"
    with secure(istiod) as channel:
        call: Any = channel.unary_unary(SIGN)
        headers = (("authorization", f"Bearer {token}"),) if token else ()
        data = call(request.SerializeToString(), timeout=timeout_s, metadata=headers)
    chain = certificate_pb2.IstioCertificateResponse.FromString(data).cert_chain
    return [x509.load_pem_x509_certificate(one.encode()) for one in chain]


def refusal(istiod: Istiod, *arguments: Any, **named: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        sign(istiod, *arguments, **named)
    error: Any = caught.value
    return error.code().name, error.details()


def test_a_csr_with_the_callers_identity_is_signed_leaf_first_root_last(shared: Istiod) -> None:
    leaf, root = sign(shared, csr(SPIFFE_ID), validity_s=90)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [SPIFFE_ID]
    assert san.critical
    assert 80 < (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() <= 90
    leaf.verify_directly_issued_by(root)
    seen = shared.observed.csrs[-1]
    assert (seen.outcome, seen.spiffe_id, seen.validity_s) == ("signed", SPIFFE_ID, 90)
    assert (seen.cert_signer, seen.key_type) == ("some-signer", "EC secp256r1")
    assert seen.serial_number == f"{leaf.serial_number:x}"


def test_a_csr_for_somebody_else_is_refused(shared: Istiod) -> None:
    other = "spiffe://cluster.local/ns/default/sa/other"
    assert refusal(shared, csr(other))[0] == "PERMISSION_DENIED"
    assert refusal(shared, csr(SPIFFE_ID, other))[0] == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    "text", ["", "no pem", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_what_is_no_csr_is_an_invalid_argument(shared: Istiod, text: str) -> None:
    assert refusal(shared, text)[0] == "INVALID_ARGUMENT"


def test_tokens_that_are_missing_foreign_expired_or_for_others_are_refused(shared: Istiod) -> None:
    tokens = {
        "no bearer token": "",
        "not signed by the lab": Istiod(load_mesh()).mint_token("default", ACCOUNT),
        "expired": shared.mint_token("default", ACCOUNT, ttl_s=-10),
        "audience": shared.tokens.mint("default", ACCOUNT, audience="vault"),
        "malformed": "garbage",
    }
    for reason, token in tokens.items():
        code, text = refusal(shared, csr(SPIFFE_ID), token)
        assert code == "UNAUTHENTICATED"
        assert reason in text


def test_a_client_certificate_of_the_lab_is_enough_where_mtls_is_asked_for() -> None:
    with Istiod(load_mesh(), require_client_certificate=True) as istiod:
        request = certificate_pb2.IstioCertificateRequest(csr=csr(SPIFFE_ID), validity_duration=60)
        with secure(istiod, pair=istiod.authority.issue(SPIFFE_ID)) as channel:
            call: Any = channel.unary_unary(SIGN)
            call(request.SerializeToString(), timeout=5)
        with secure(istiod) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(SIGN)(request.SerializeToString(), timeout=5)
        assert istiod.observed.csrs_signed() == 1


def test_the_ca_can_be_told_to_fail(istiod: Istiod) -> None:
    good = csr(SPIFFE_ID)
    istiod.faults.ca = "unavailable"
    assert refusal(istiod, good)[0] == "UNAVAILABLE"
    istiod.faults.ca = "refuse"
    assert refusal(istiod, good)[0] == "PERMISSION_DENIED"
    istiod.faults.ca = "hang"
    assert refusal(istiod, good, timeout_s=0.3)[0] == "DEADLINE_EXCEEDED"
    istiod.faults.ca = "short-chain"
    assert len(sign(istiod, good)) == 1
    istiod.faults.ca, istiod.faults.certificate_ttl_s = "up", 7
    leaf, _ = sign(istiod, good)
    assert (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() <= 7
    istiod.faults.refuse_tokens = True
    assert refusal(istiod, good)[0] == "UNAUTHENTICATED"


def test_discovery_over_tls_wants_a_token_and_knows_the_caller(istiod: Istiod) -> None:
    with Client(istiod, tls=True) as client:
        client.send(CDS, node=NODE)
        assert client.code() is grpc.StatusCode.UNAUTHENTICATED
    with Client(istiod, tls=True, token=istiod.mint_token("default", ACCOUNT)) as client:
        client.send(CDS, node=NODE)
        assert client.receive().type_url == CDS
    assert istiod.observed.streams[-1].identity == f"default/{ACCOUNT}"
    assert istiod.observed.refused_streams == 1


@pytest.mark.parametrize("method", [SOTW, DELTA], ids=["sotw", "delta"])
def test_a_change_is_pushed_and_acks_and_nacks_are_counted(istiod: Istiod, method: str) -> None:
    with Client(istiod, method) as client:
        client.send(LDS, node=NODE)
        first = client.receive()
        client.send(LDS, response_nonce=first.nonce)
        istiod.observed.wait_until(lambda seen: seen.acks(LDS) == 1)

        istiod.push(load_mesh().with_ports(lambda port: port + 20_000))
        second = client.receive()
        assert second.nonce != first.nonce
        client.send(
            LDS, response_nonce=second.nonce, error_detail=status_pb2.Status(code=13, message="no, thanks")
        )
        istiod.observed.wait_until(lambda seen: seen.nacks(LDS) == 1)
        assert istiod.observed.nack_messages() == [f"{LDS}: no, thanks"]


@pytest.mark.parametrize("method", [SOTW, DELTA], ids=["sotw", "delta"])
def test_health_counts_only_after_the_first_ordinary_request(istiod: Istiod, method: str) -> None:
    unhealthy = status_pb2.Status(code=13, message="probe failed")
    with Client(istiod, method) as client:
        client.send(HEALTH)
        client.send(LDS, node=NODE)
        client.send(HEALTH, error_detail=unhealthy)
        client.send(HEALTH)
        istiod.observed.wait_until(lambda seen: len(seen.health) == 2)
    assert [(one.node_id, one.healthy, one.message) for one in istiod.observed.health] == [
        (NODE["id"], False, "probe failed"),
        (NODE["id"], True, ""),
    ]
    assert istiod.observed.counts["early health", HEALTH] == 1


def test_the_agents_own_types_are_answered(istiod: Istiod) -> None:
    with Client(istiod) as client:
        client.send(LDS, node=NODE)
        client.receive()
        client.send(PCDS)
        client.send(NDS)
        response = client.receive()
        assert response.type_url == NDS
        table = name_table_pb2.NameTable.FromString(response.resources[0].value).table
        assert table["reviews.default.svc.cluster.local"].ips == ["10.96.0.13"]

        istiod.push(replace(load_mesh(), trust_bundle_pem=("one", "two")))
        response = client.receive()
        config = proxy_config_pb2.ProxyConfig.FromString(response.resources[0].value)
        assert config.ca_certificates_pem == ["one", "two"]


def test_a_restart_keeps_address_and_keys_and_forgets_streams(istiod: Istiod) -> None:
    address, root = istiod.address, istiod.root_pem
    with Client(istiod) as client:
        client.send(CDS, node=NODE)
        version = client.receive().version_info
        istiod.restart()
        with pytest.raises(grpc.RpcError):
            client.receive()
    assert (istiod.address, istiod.root_pem) == (address, root)
    with Client(istiod) as client:
        client.send(CDS, node=NODE, response_nonce="from before")
        assert client.receive().version_info != version


def test_streams_can_be_ended_gracefully_or_with_a_status(istiod: Istiod) -> None:
    for code, expected in ((None, grpc.StatusCode.OK), (grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL)):
        with Client(istiod) as client:
            client.send(CDS, node=NODE)
            client.receive()
            istiod.disconnect_all(code)
            assert client.code() is expected
    istiod.observed.wait_until(lambda seen: not seen.open_streams)


def test_garbage_is_sent_as_it_is_and_a_silent_istiod_answers_nothing(istiod: Istiod) -> None:
    with Client(istiod) as client:
        client.send(CDS, node=NODE)
        client.receive()
        istiod.send_raw(b"\xff\xff\xff no protobuf")
        assert client.receive_bytes() == b"\xff\xff\xff no protobuf"
        istiod.faults.ads = "silent"
        client.send(LDS)
        istiod.observed.wait_until(lambda seen: seen.counts["unanswered", LDS] == 1)
        istiod.faults.ads = "up"
        client.send(NDS)
        assert client.receive().type_url == NDS
    istiod.faults.ads = "unavailable"
    with Client(istiod) as client:
        client.send(CDS, node=NODE)
        assert client.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_recordings_are_replayed_byte_for_byte(variant: Any) -> None:
    recorded = list(recorded_messages(RECORDINGS / f"ads-sidecar.{variant}.binpb"))
    world = recorded_world(RECORDINGS, variant)
    with (
        Istiod(world, plaintext=True) as istiod,
        Client(istiod, SOTW if variant == "sotw" else DELTA) as client,
    ):
        client.send(CDS, node=NODE)
        assert client.receive_bytes() == recorded[0]
        client.send(LDS)
        data = client.receive_bytes()
        assert data == recorded[2]
        assert not istiod.observed.nack_messages()


def test_provisioned_files_are_what_an_agent_finds_in_its_pod(shared: Istiod, tmp_path: Path) -> None:
    shared.provision(tmp_path, "default", ACCOUNT)
    assert (tmp_path / "var/run/secrets/istio/root-cert.pem").read_text() == shared.root_pem
    token = (tmp_path / "var/run/secrets/tokens/istio-token").read_text()
    assert len(sign(shared, csr(SPIFFE_ID), token)) == 2


def test_clusters_differ_by_role(shared: Istiod) -> None:
    names = {}
    for role in ("sidecar", "router"):
        with Client(shared) as client:
            client.send(CDS, node={"id": NODE["id"].replace("sidecar", role)})
            found = [cluster_pb2.Cluster.FromString(one.value).name for one in client.receive().resources]
            names[role] = set(found)
    assert names["router"] < names["sidecar"]
    assert all(one.startswith("inbound|") for one in names["sidecar"] - names["router"])


def test_it_runs_as_a_program_and_follows_its_file(tmp_path: Path) -> None:
    config = tmp_path / "mesh.yaml"
    config.write_text(BOOKINFO.read_text())
    command = [
        sys.executable,
        "-m",
        "lab.istiod",
        "--config",
        str(config),
        "--port",
        "0",
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        assert process.stdout is not None
        assert "in a mesh istiod does this job" in process.stdout.readline()
        assert "listening on 127.0.0.1:" in process.stdout.readline()
        assert (tmp_path / "tokens" / ACCOUNT).read_text().count(".") == 2
        config.write_text(BOOKINFO.read_text().replace("v1: 50, v3: 50", "v1: 10, v3: 90"))
        assert "changed: pushed" in process.stdout.readline()
        config.write_text("services: [")
        assert "changed, kept the old" in process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0
        guard.cancel()
