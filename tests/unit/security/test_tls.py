import ssl
from pathlib import Path

import pytest

from pilot_agent.rpc.client import Secured, Target, TargetError
from pilot_agent.security.compliance import ComplianceError
from pilot_agent.security.tls import Tls
from tests.support.client_hello import Seen, server_context, tls_server
from tests.support.small_ca import Authority

P256, P384, MLKEM = 23, 24, 0x11EC
TLS12, TLS13 = 0x0303, 0x0304
FIPS = {0xC02B, 0xC02F, 0xC02C, 0xC030}
TLS13_SUITES = {0x1301, 0x1302, 0x1303}
SCSV = {0x00FF}  # says that renegotiation is safe; no cipher
HAS_MLKEM = ssl.OPENSSL_VERSION_INFO >= (3, 5)

AUTHORITY = Authority()


def connected(context: ssl.SSLContext, policy: str, name: str = "localhost") -> list[Seen]:
    """Return what the server saw of one connection with this policy."""
    with tls_server(context) as (port, seen):
        tls = Tls(server_name=name, roots_pem=AUTHORITY.root_pem, policy=policy)
        secured = Secured(tuple(tls.contexts()), tls.server_name, tls.check)
        Target(address=f"127.0.0.1:{port}", secured=secured).dial(10).close()
    return seen


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    return server_context(*AUTHORITY.serving_pair(), tmp_path)


def test_without_a_policy_tls_1_2_is_the_least(server: ssl.SSLContext) -> None:
    (seen,) = connected(server, "")
    assert set(seen.versions) == {TLS12, TLS13}
    assert seen.version == "TLSv1.3"


def test_fips_140_2_is_tls_1_2_with_its_ciphers_and_p_256_alone(server: ssl.SSLContext) -> None:
    (seen,) = connected(server, "fips-140-2")
    assert (seen.versions, set(seen.suites) - SCSV, seen.groups) == ([TLS12], FIPS, [P256])
    assert (seen.version, seen.cipher[:6]) == ("TLSv1.2", "ECDHE-")


def test_fips_140_3_is_tls_1_2_or_1_3_with_p_256_or_p_384(server: ssl.SSLContext) -> None:
    (seen,) = connected(server, "fips-140-3")
    assert set(seen.versions) == {TLS12, TLS13}
    assert set(seen.suites) - SCSV - TLS13_SUITES == FIPS
    assert seen.groups == [P256]

    server.set_ecdh_curve("secp384r1")
    refused, agreed = connected(server, "fips-140-3")
    assert (refused.groups, refused.version) == ([P256], "")
    assert (agreed.groups, agreed.version) == ([P384], "TLSv1.3")

    server.set_ecdh_curve("prime256v1")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    assert connected(server, "fips-140-3")[-1].cipher[:6] == "ECDHE-"


@pytest.mark.parametrize("policy", ["fips-140-2", "fips-140-3"])
def test_a_server_outside_of_the_policy_is_not_talked_to(server: ssl.SSLContext, policy: str) -> None:
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    server.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    with pytest.raises(TargetError, match=r"(?i)handshake.failure"):
        connected(server, policy)


def test_pqc_is_kept_or_nothing_is_sent(server: ssl.SSLContext) -> None:
    if HAS_MLKEM:
        (seen,) = connected(server, "pqc")
        assert (seen.versions, seen.groups, seen.version) == ([TLS13], [MLKEM], "TLSv1.3")
        return
    with pytest.raises(ComplianceError, match="has no key exchange X25519MLKEM768"):
        connected(server, "pqc")


def test_another_name_or_root_or_protocol_is_refused(server: ssl.SSLContext, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"verify certificate.*elsewhere"):
        connected(server, "", name="elsewhere.example")
    with pytest.raises(TargetError, match="unable to get local issuer"):
        connected(server_context(*Authority("other").serving_pair(), tmp_path), "")
    server.set_alpn_protocols(["http/1.1"])
    with pytest.raises(TargetError, match="missing selected ALPN"):
        connected(server, "")
