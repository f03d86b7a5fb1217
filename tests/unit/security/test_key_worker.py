import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from pilot_agent.environment import Environment
from pilot_agent.security.errors import CsrError
from pilot_agent.security.key_worker import make_key
from pilot_agent.security.work import KeyMade, KeyParameters, encode, result

ID = "spiffe://cluster.local/ns/default/sa/reviews"


def made(parameters: KeyParameters) -> KeyMade:
    return result(make_key(encode(parameters)), KeyMade)


@pytest.mark.parametrize(
    ("variables", "begin", "bits", "digest"),
    [
        ({}, "-----BEGIN RSA PRIVATE KEY-----", 2048, "sha256"),
        (
            {"WORKLOAD_RSA_KEY_SIZE": "3072", "PKCS8_KEY": "true"},
            "-----BEGIN PRIVATE KEY-----",
            3072,
            "sha256",
        ),
        ({"ECC_SIGNATURE_ALGORITHM": "ECDSA"}, "-----BEGIN EC PRIVATE KEY-----", 256, "sha256"),
        (
            {"ECC_SIGNATURE_ALGORITHM": "ECDSA", "ECC_CURVE": "P384", "PKCS8_KEY": "1"},
            "-----BEGIN PRIVATE KEY-----",
            384,
            "sha384",
        ),
        (
            {"ECC_SIGNATURE_ALGORITHM": "ECDSA", "ECC_CURVE": "x"},
            "-----BEGIN EC PRIVATE KEY-----",
            256,
            "sha256",
        ),
    ],
    ids=["default", "larger RSA in PKCS#8", "ECDSA", "P-384 in PKCS#8", "an unknown curve is P-256"],
)
def test_key_and_csr_are_of_the_kind_asked_for(
    variables: dict[str, str], begin: str, bits: int, digest: str
) -> None:
    pair = made(KeyParameters.read(Environment(variables)))

    key = load_pem_private_key(pair.key_pem.encode(), None)
    csr = x509.load_pem_x509_csr(pair.csr_pem.encode())
    assert pair.key_pem.startswith(begin)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    assert key.key_size == bits
    assert csr.is_signature_valid
    assert csr.signature_hash_algorithm is not None
    assert csr.signature_hash_algorithm.name == digest
    assert csr.public_key() == key.public_key()


def test_the_csr_has_an_empty_printable_organization_and_a_critical_san_and_nothing_else() -> None:
    pair = made(KeyParameters(spiffe_id=ID, signature_algorithm="ECDSA"))

    csr = x509.load_pem_x509_csr(pair.csr_pem.encode())
    assert csr.subject.public_bytes() == bytes.fromhex("300b 3109 3007 0603 55040a 1300")
    (san,) = csr.extensions
    assert san.critical
    assert isinstance(san.value, x509.SubjectAlternativeName)
    assert list(san.value) == [x509.UniformResourceIdentifier(ID)]


def test_the_csr_is_byte_for_byte_what_cryptography_would_write() -> None:
    pair = made(KeyParameters(spiffe_id=ID))

    key = load_pem_private_key(pair.key_pem.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "", _ASN1Type.PrintableString)
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ID)])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([organization]))
    expected = builder.add_extension(alternative, critical=True).sign(key, SHA256())
    assert pair.csr_pem == expected.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("length", [100, 127, 128, 200, 255, 256, 3000])
def test_a_name_of_any_length_is_read_back(length: int) -> None:
    name = ID + "x" * (length - len(ID))
    pair = made(KeyParameters(spiffe_id=name, signature_algorithm="ECDSA"))

    request = x509.load_pem_x509_csr(pair.csr_pem.encode())
    assert request.is_signature_valid
    (san,) = request.extensions
    assert isinstance(san.value, x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [name]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            KeyParameters(spiffe_id=ID, rsa_key_bits=1024),
            r"minimum required size of 2048 \(requested: 1024\)",
        ),
        (
            KeyParameters(spiffe_id=ID, signature_algorithm="DSA"),
            "unsupported EC signature algorithm: got=DSA",
        ),
        (KeyParameters(spiffe_id="spiffe://ü/ns//sa/"), "cannot make a CSR for 'spiffe://ü"),
    ],
    ids=["small key", "unknown algorithm", "a name that is no URI"],
)
def test_what_cannot_be_made_is_an_error_that_says_why(parameters: KeyParameters, text: str) -> None:
    with pytest.raises(CsrError, match=text):
        made(parameters)


def test_the_key_stands_in_no_repr() -> None:
    pair = made(KeyParameters(spiffe_id=ID, signature_algorithm="ECDSA"))
    assert "PRIVATE" not in repr(pair)


def test_the_worker_needs_neither_grpc_nor_msgspec_and_the_request_needs_no_cryptography() -> None:
    code = (
        "import sys\n"
        "from pilot_agent.environment import Environment\n"
        "from pilot_agent.security.work import KeyParameters, encode\n"
        "request = encode(KeyParameters.read(Environment({'ECC_SIGNATURE_ALGORITHM': 'ECDSA'})))\n"
        "assert 'cryptography' not in sys.modules\n"
        "from pilot_agent.security.key_worker import make_key\n"
        "assert b'BEGIN EC PRIVATE KEY' in make_key(request)\n"
        "heavy = {'grpc', 'msgspec', 'tenacity', 'psutil', 'pykka', 'cryptography.x509'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=30, env={"PYTHONPATH": ":".join(sys.path)}
    )
