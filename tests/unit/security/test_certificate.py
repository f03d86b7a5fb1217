"""Our reader finds in certificates what `cryptography` finds, and crashes at nothing."""

import base64
import contextlib
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_agent.security.certificate import (
    CertificateError,
    certificate_facts,
    check_certificates,
    csr_public_key,
)
from tests.support.small_ca import Authority

KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
AUTHORITY = Authority()
DER = AUTHORITY.certificate.public_bytes(Encoding.DER)


def issue(kind: str, not_after: dt.datetime, serial: int) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        issuer_name=AUTHORITY.name,
        subject_name=x509.Name([]),
        public_key=KEYS[kind].public_key(),
        serial_number=serial,
        not_valid_before=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        not_valid_after=not_after,
    )
    return builder.sign(AUTHORITY.key, hashes.SHA256())


def csr(kind: str) -> str:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    digest = None if kind == "Ed25519" else hashes.SHA256()
    return builder.sign(KEYS[kind], digest).public_bytes(Encoding.PEM).decode()


def armored(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("kind", KEYS)
@settings(max_examples=20, deadline=None)
@given(
    not_after=st.datetimes(dt.datetime(2020, 1, 2), dt.datetime(2300, 1, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001
    serial=st.integers(1, 2**159 - 1),
)
def test_end_serial_number_and_key_are_found(kind: str, not_after: dt.datetime, serial: int) -> None:
    not_after = not_after.replace(microsecond=0)  # in UTCTime before 2050, in GeneralizedTime after
    facts = certificate_facts(issue(kind, not_after, serial).public_bytes(Encoding.PEM).decode())
    assert facts.not_after_unix_s == not_after.timestamp()
    assert int(facts.serial_number, 16) == serial
    assert facts.public_key == csr_public_key(csr(kind))


def test_keys_of_two_are_different() -> None:
    assert len({csr_public_key(csr(kind)) for kind in KEYS}) == len(KEYS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----",
        armored(b"\x30\x80\x00\x00"),
        armored(b"\x30\x85\x01\x01\x01\x01\x01"),
        armored(DER[:-1]),
        armored(b"\x02\x01\x00"),
    ],
    ids=["nothing", "no base64", "empty", "indefinite length", "huge length", "cut off", "another structure"],
)
def test_what_is_no_certificate_is_refused(text: str) -> None:
    for read in (certificate_facts, check_certificates, csr_public_key):
        with pytest.raises(CertificateError):
            read(text)


@settings(max_examples=300)
@given(at=st.integers(0, len(DER) - 1), byte=st.integers(0, 255))
def test_a_damaged_certificate_is_refused_or_read_but_never_crashes(at: int, byte: int) -> None:
    with contextlib.suppress(CertificateError):
        certificate_facts(armored(DER[:at] + bytes([byte]) + DER[at + 1 :]))
