"""A small CA for tests: signs CSRs over gRPC with TLS, checks the token, and fails when told to."""

import datetime as dt
import ipaddress
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from proto_gen.istio.v1.auth.certificate_pb2 import IstioCertificateRequest, IstioCertificateResponse

TOKEN = "good-token"


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Authority:
    """A self-signed root with its key."""

    def __init__(self, name: str = "root") -> None:
        self.key = new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        self.certificate = self.issue(
            self.key.public_key(), subject=self.name, lifetime_s=10 * 365 * 86400, is_ca=True
        )
        self.root_pem = pem(self.certificate)

    def issue(
        self,
        public_key: object,
        *,
        lifetime_s: float,
        subject: x509.Name | None = None,
        names: x509.SubjectAlternativeName | None = None,
        is_ca: bool = False,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder(
                issuer_name=self.name,
                subject_name=subject or x509.Name([]),
                public_key=public_key,  # type: ignore[arg-type]
            )
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=2))
            .not_valid_after(now + dt.timedelta(seconds=lifetime_s))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def serving_pair(self) -> tuple[bytes, bytes]:
        """Return key and certificate of a server on 127.0.0.1, localhost and istiod's name."""
        key = new_key()
        names = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.DNSName("istiod.istio-system.svc"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            ]
        )
        certificate = self.issue(key.public_key(), lifetime_s=86400, names=names)
        return key_pem(key).encode(), pem(certificate).encode()

    def workload_pair(self, spiffe_id: str, lifetime_s: float = 86400) -> tuple[str, str]:
        """Return key and chain (leaf and root) as PEM."""
        key = new_key()
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
        certificate = self.issue(key.public_key(), lifetime_s=lifetime_s, names=names)
        return key_pem(key), pem(certificate) + self.root_pem


@dataclass
class SmallCa:
    """What the CA does with the next calls, and what it was asked."""

    authority: Authority = field(default_factory=Authority)
    lifetime_s: float = 86400.0
    failures: list[grpc.StatusCode] = field(default_factory=list)  # consumed one a call
    answer_chain: list[str] | None = None  # instead of signing
    sign_another_key: bool = False
    check_token: bool = True
    require_client_certificate: bool = False
    hold: threading.Event | None = None  # a call waits for it
    requests: list[IstioCertificateRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    address: str = ""

    def create(
        self, request: IstioCertificateRequest, context: grpc.ServicerContext
    ) -> IstioCertificateResponse:
        headers = {str(key): str(value) for key, value in context.invocation_metadata()}
        self.requests.append(request)
        self.metadata.append(headers)
        if self.hold is not None:
            self.hold.wait(20)
        if self.failures:
            context.abort(self.failures.pop(0), "as the test wants it")
        if self.check_token and headers.get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
        chain = self.answer_chain if self.answer_chain is not None else self.sign(request.csr)
        return IstioCertificateResponse(cert_chain=chain)

    def sign(self, csr_pem: str) -> list[str]:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        public_key = new_key().public_key() if self.sign_another_key else csr.public_key()
        leaf = self.authority.issue(public_key, lifetime_s=self.lifetime_s, names=names)
        return [pem(leaf), self.authority.root_pem]


@contextmanager
def running(ca: SmallCa, port: int = 0) -> Iterator[SmallCa]:
    """Serve `ca` over TLS on 127.0.0.1; `ca.address` says where."""
    method = grpc.unary_unary_rpc_method_handler(
        ca.create,
        request_deserializer=IstioCertificateRequest.FromString,
        response_serializer=IstioCertificateResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "istio.v1.auth.IstioCertificateService", {"CreateCertificate": method}
            ),
        )
    )
    credentials = grpc.ssl_server_credentials(
        [ca.authority.serving_pair()],
        root_certificates=ca.authority.root_pem.encode(),
        require_client_auth=ca.require_client_certificate,
    )
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    ca.address = f"127.0.0.1:{bound}"
    server.start()
    try:
        yield ca
    finally:
        if ca.hold is not None:
            ca.hold.set()
        server.stop(None).wait()


def public_der(pem_text: str) -> bytes:
    """Return the public key of a certificate, CSR or private key."""
    data = pem_text.encode()
    if "CERTIFICATE REQUEST" in pem_text:
        holder = x509.load_pem_x509_csr(data).public_key()
    else:
        holder = x509.load_pem_x509_certificate(data).public_key()
    return holder.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def provision(folder: Path, ca: SmallCa, token: str = TOKEN) -> tuple[str, str]:
    """Write root certificate and token; return their paths."""
    root, token_file = folder / "ca-root.pem", folder / "istio-token"
    root.write_text(ca.authority.root_pem)
    token_file.write_text(f"{token}\n")
    return str(root), str(token_file)
