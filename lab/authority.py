"""The lab's certificate authority: an ECDSA root in memory that signs workloads' CSRs and its own server."""

import datetime as dt
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_ROOT_LIFETIME = dt.timedelta(days=3650)
_CLOCK_SKEW = dt.timedelta(minutes=2)  # istiod dates certificates back by this much


class CsrError(ValueError):
    """The CSR is not one that this caller may have signed; the text says why."""


class CsrIdentityError(CsrError):
    """The CSR asks for a name that is not the caller's."""


@dataclass(frozen=True, slots=True)
class Signed:
    """`chain_pem`: leaf first, root last."""

    chain_pem: tuple[str, ...]
    serial_number: str  # lower-case hexadecimal
    not_after: dt.datetime


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A chain with the key of its leaf, all PEM."""

    certificate_chain_pem: bytes
    private_key_pem: bytes


class Authority:
    """One self-signed root. A second instance is another root: what a root rotation needs."""

    def __init__(self, organization: str = "cluster.local") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
        now = dt.datetime.now(dt.UTC)
        builder = _builder(name, name, self._key.public_key(), now - _CLOCK_SKEW, now + _ROOT_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(is_ca=True), critical=True)
        self._root = builder.sign(self._key, hashes.SHA256())
        self.root_pem = _pem(self._root)

    def sign(self, csr_pem: str, *, spiffe_id: str, validity_s: int) -> Signed:
        """Sign a workload's CSR for `validity_s` seconds from now.

        Raises:
            CsrError: it is no CSR, its signature is wrong.
            CsrIdentityError: its SAN is not exactly `spiffe_id`.
        """
        csr = _checked(csr_pem, spiffe_id)
        now = dt.datetime.now(dt.UTC)
        until = now + dt.timedelta(seconds=validity_s)
        leaf = self._leaf(csr.public_key(), [x509.UniformResourceIdentifier(spiffe_id)], now, until)
        return Signed((_pem(leaf), self.root_pem), f"{leaf.serial_number:x}", until)

    def issue(self, *names: str, validity_s: int = 86_400) -> KeyPair:
        """Return a new key and certificate for these names: SPIFFE IDs, IP addresses or host names."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        until = now + dt.timedelta(seconds=validity_s)
        leaf = self._leaf(key.public_key(), [_general_name(one) for one in names], now, until)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        return KeyPair((_pem(leaf) + self.root_pem).encode(), private)

    def _leaf(
        self,
        public_key: object,
        names: list[x509.GeneralName],
        now: dt.datetime,
        until: dt.datetime,
    ) -> x509.Certificate:
        builder = _builder(x509.Name([]), self._root.subject, public_key, now - _CLOCK_SKEW, until)
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        return builder.sign(self._key, hashes.SHA256())


def key_type_of(csr_pem: str) -> str:
    """Return "RSA 2048", "EC secp256r1" or the like, empty if the text is no CSR."""
    try:
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
    except ValueError:
        return ""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return f"EC {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__


def _checked(csr_pem: str, spiffe_id: str) -> x509.CertificateSigningRequest:
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        valid = csr.is_signature_valid
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise CsrError(f"no usable certificate signing request: {error}") from error
    if not valid:
        raise CsrError("the signature of the certificate signing request is wrong")
    asked = [str(one.value) for one in names]
    if asked != [spiffe_id]:
        raise CsrIdentityError(f"subject alternative names got={asked} expected={[spiffe_id]}")
    return csr


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: object,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)  # type: ignore[arg-type] # what a CSR or a fresh key holds
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public_key),  # type: ignore[arg-type] # the same
            critical=False,
        )
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_encipherment=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    if name.startswith("spiffe://"):
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
