"""Makes a key and its certificate signing request. Runs in a short-lived worker process only."""

from collections.abc import Callable

from pilot_agent.stand_in import stand_in

_OF_SSH = (
    "SSHCertificate",
    "SSHCertificateBuilder",
    "SSHCertificateType",
    "SSHCertPrivateKeyTypes",
    "SSHCertPublicKeyTypes",
    "SSHPrivateKeyTypes",
    "SSHPublicKeyTypes",
    "load_ssh_private_key",
    "load_ssh_public_identity",
    "load_ssh_public_key",
    "serialize_ssh_public_key",
    "ssh_key_fingerprint",
)
stand_in("cryptography.hazmat.primitives.serialization.ssh", dict.fromkeys(_OF_SSH))
"""SSH's formats, and the ciphers that they load, take 12 ms, and this process writes none of them."""

from cryptography.hazmat.primitives import hashes  # noqa: E402  # see above
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa  # noqa: E402
from cryptography.hazmat.primitives.serialization import (  # noqa: E402
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pilot_agent.security import csr  # noqa: E402
from pilot_agent.security.errors import CsrError  # noqa: E402
from pilot_agent.security.work import KeyMade, KeyParameters, decode, encode, failure  # noqa: E402

SMALLEST_RSA_BITS = 2048

_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def make_key(request: bytes) -> bytes:
    """Take encoded KeyParameters, return an encoded KeyMade or a failure."""
    try:
        return encode(_key_made(decode(request, KeyParameters)))
    except CsrError as error:
        return failure(error)


def _key_made(parameters: KeyParameters) -> KeyMade:
    key = _private_key(parameters)
    form = PrivateFormat.PKCS8 if parameters.pkcs8 else PrivateFormat.TraditionalOpenSSL
    algorithm, sign = _signing(key)
    try:
        csr_pem = csr.request_pem(
            parameters.spiffe_id,
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            algorithm=algorithm,
            sign=sign,
        )
    except ValueError as error:
        raise CsrError(f"cannot make a CSR for {parameters.spiffe_id!r}: {error}") from error
    return KeyMade(key_pem=key.private_bytes(Encoding.PEM, form, NoEncryption()).decode(), csr_pem=csr_pem)


def _private_key(parameters: KeyParameters) -> _Key:
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


def _signing(key: _Key) -> tuple[bytes, Callable[[bytes], bytes]]:
    """Return the algorithm's identifier, and what signs so."""
    if isinstance(key, rsa.RSAPrivateKey):
        return csr.RSA_SHA256, lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key.curve, ec.SECP384R1):
        return csr.ECDSA_SHA384, lambda data: key.sign(data, ec.ECDSA(hashes.SHA384()))
    return csr.ECDSA_SHA256, lambda data: key.sign(data, ec.ECDSA(hashes.SHA256()))
