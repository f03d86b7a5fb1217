"""Makes a key and its certificate signing request. Runs in a short-lived worker process only."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from pilot_agent.security.errors import CsrError
from pilot_agent.security.work import KeyMade, KeyParameters, decode, encode, failure

SMALLEST_RSA_BITS = 2048


def make_key(request: bytes) -> bytes:
    """Take encoded KeyParameters, return an encoded KeyMade or a failure."""
    try:
        return encode(_key_made(decode(request, KeyParameters)))
    except CsrError as error:
        return failure(error)


def _key_made(parameters: KeyParameters) -> KeyMade:
    key = _private_key(parameters)
    form = PrivateFormat.PKCS8 if parameters.pkcs8 else PrivateFormat.TraditionalOpenSSL
    try:
        csr = _builder(parameters.spiffe_id).sign(key, _digest(key))
    except ValueError as error:
        raise CsrError(f"cannot make a CSR for {parameters.spiffe_id!r}: {error}") from error
    return KeyMade(
        key_pem=key.private_bytes(Encoding.PEM, form, NoEncryption()).decode(),
        csr_pem=csr.public_bytes(Encoding.PEM).decode(),
    )


def _private_key(parameters: KeyParameters) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    match parameters.signature_algorithm:
        case "ECDSA":
            return ec.generate_private_key(ec.SECP384R1() if parameters.curve == "P384" else ec.SECP256R1())
        case "":
            if parameters.rsa_key_bits < SMALLEST_RSA_BITS:
                raise CsrError(
                    f"requested key size does not meet the minimum required size of {SMALLEST_RSA_BITS} "
                    f"(requested: {parameters.rsa_key_bits})"
                )
            return rsa.generate_private_key(65537, parameters.rsa_key_bits)
        case other:
            raise CsrError(f"unsupported EC signature algorithm: got={other} expected=ECDSA")


def _digest(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> hashes.SHA256 | hashes.SHA384:
    is_p384 = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)
    return hashes.SHA384() if is_p384 else hashes.SHA256()


def _builder(spiffe_id: str) -> x509.CertificateSigningRequestBuilder:
    """One organization that is an empty PrintableString, and a critical SAN: what Go's agent sends."""
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "", _ASN1Type.PrintableString)
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    return x509.CertificateSigningRequestBuilder(x509.Name([organization])).add_extension(
        alternative, critical=True
    )
