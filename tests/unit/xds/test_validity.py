"""The end of a certificate's validity, read without a cryptography library."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.xds.roots import first_certificate
from pilot_agent.xds.validity import not_after
from tests.support.small_ca import Authority, new_key, pem

AUTHORITY = Authority()


@pytest.mark.parametrize("lifetime_s", [-3600, 86400, 10 * 365 * 86400, 60 * 365 * 86400])
def test_it_is_what_the_library_reads(lifetime_s: float) -> None:
    certificate = AUTHORITY.issue(new_key().public_key(), lifetime_s=lifetime_s)
    assert not_after(certificate.public_bytes(Encoding.DER)) == certificate.not_valid_after_utc


def test_the_first_certificate_of_a_bundle_is_found() -> None:
    leaf = AUTHORITY.issue(new_key().public_key(), lifetime_s=60)
    bundle = f"a comment\n{pem(leaf)}{AUTHORITY.root_pem}".encode()
    assert first_certificate(bundle) == leaf.public_bytes(Encoding.DER)
    assert first_certificate(b"nothing") is None


@given(cut=st.integers(min_value=0), flip=st.binary(min_size=1, max_size=1))
def test_damaged_bytes_are_refused_or_read_but_never_crash(cut: int, flip: bytes) -> None:
    der = AUTHORITY.certificate.public_bytes(Encoding.DER)
    at = cut % len(der)
    for damaged in (der[:at], der[:at] + flip + der[at + 1 :]):
        try:
            not_after(damaged)
        except ValueError:
            continue
        except x509.InvalidVersion:
            pytest.fail("no library is asked")
