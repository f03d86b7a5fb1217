"""What COMPLIANCE_POLICY allows on the agent's own TLS connections.

A policy that this machine's OpenSSL cannot keep is an error: no connection is made outside of it.
Source: the reference's TLS options (`EnforceGoCompliance`).
"""

import ssl
from typing import Final, NamedTuple

from pilot_agent.security.openssl_groups import set_groups

_FIPS_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
_CURVES: Final = ("prime256v1", "secp384r1")
_AES_GCM: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384")


class ComplianceError(ValueError):
    """The policy cannot be kept here, or a peer did not keep it."""


class Limits(NamedTuple):
    """The limits of one policy; empty tuples limit nothing."""

    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    highest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
    ciphers: tuple[str, ...] = ()  # of TLS 1.2
    suites: tuple[str, ...] = ()  # of TLS 1.3
    groups: tuple[str, ...] = ()  # of the key exchange, in OpenSSL's words; the first is preferred


_LIMITS: Final = {
    "fips-140-2": Limits(highest=ssl.TLSVersion.TLSv1_2, ciphers=_FIPS_CIPHERS, groups=("prime256v1",)),
    "fips-140-3": Limits(
        highest=ssl.TLSVersion.TLSv1_3, ciphers=_FIPS_CIPHERS, groups=("prime256v1", "secp384r1")
    ),
    "pqc": Limits(lowest=ssl.TLSVersion.TLSv1_3, suites=_AES_GCM, groups=("X25519MLKEM768",)),
}


def limits_of(policy: str) -> Limits:
    """Return the limits of a policy; TLS 1.2 at least where there is none, or an unknown one."""
    return _LIMITS.get(policy, Limits())


def restrict(context: ssl.SSLContext, limits: Limits, group: str = "") -> None:
    """Have connections of `context` keep the limits.

    `ssl` names one group at a time (before Python 3.15), so `group` is the one of `limits.groups` that
    this context offers; a second context tries the next.

    Raises:
        ComplianceError: this OpenSSL does not know what the policy asks for.
    """
    context.minimum_version, context.maximum_version = limits.lowest, limits.highest
    if limits.ciphers:
        context.set_ciphers(":".join(limits.ciphers))
    if group:
        try:
            if group in _CURVES:
                context.set_ecdh_curve(group)
            else:
                set_groups(context, group)
        except (ValueError, ssl.SSLError) as error:
            raise ComplianceError(f"{ssl.OPENSSL_VERSION} has no key exchange {group}") from error


def check(sock: ssl.SSLSocket | ssl.SSLObject, limits: Limits) -> None:
    """Look at what was agreed on: the suites of TLS 1.3 cannot be chosen beforehand.

    Raises:
        ComplianceError: it is outside of the limits.
    """
    agreed = sock.cipher()
    if sock.version() == "TLSv1.3" and limits.suites and (agreed is None or agreed[0] not in limits.suites):
        raise ComplianceError(f"cipher suite got={agreed and agreed[0]} expected=one of {limits.suites}")
