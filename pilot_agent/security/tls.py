"""TLS towards the CA and istiod with the standard library: imported late, 6 ms and 2 MB."""

import ssl
from collections.abc import Iterator
from typing import Final

import msgspec

from pilot_agent.security.compliance import ComplianceError, check, limits_of, restrict
from pilot_agent.security.pem import blocks

_HTTP2: Final = "h2"


def begin() -> None:
    """Have OpenSSL load its tables and its configuration, which it does with the first context."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """How the peer is verified, and what it is shown."""

    server_name: str
    roots_pem: str
    client_chain_path: str = ""  # empty: no client certificate
    client_key_path: str = ""
    policy: str = ""  # COMPLIANCE_POLICY

    def contexts(self) -> Iterator[ssl.SSLContext]:
        """Yield a context for each key exchange that may be offered by itself; one where any may.

        Raises:
            ComplianceError: this OpenSSL cannot keep the policy.
            OSError: no root certificate can be used, or not the client's key and certificate.
        """
        limits = limits_of(self.policy)
        for group in limits.groups or ("",):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            restrict(context, limits, group)
            context.hostname_checks_common_name = False
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # an intermediate may be a root
            _trust(context, self.roots_pem)
            context.set_alpn_protocols([_HTTP2])
            if self.client_chain_path:
                context.load_cert_chain(self.client_chain_path, self.client_key_path, password=_nobody)
            yield context

    def check(self, agreed: "ssl.SSLSocket | ssl.SSLObject") -> None:
        """Raises: ComplianceError: what was agreed on is outside of the policy, or no HTTP/2."""
        check(agreed, limits_of(self.policy))
        if agreed.selected_alpn_protocol() != _HTTP2:  # as Go's gRPC has it
            raise ComplianceError("credentials: cannot check peer: missing selected ALPN property")


def _trust(context: ssl.SSLContext, roots_pem: str) -> None:
    """Trust these certificates; one that OpenSSL cannot read is passed over if there is another."""
    failed: ssl.SSLError | None = None
    trusted = 0
    for pem in blocks(roots_pem, "CERTIFICATE"):
        try:
            context.load_verify_locations(cadata=pem)
            trusted += 1
        except ssl.SSLError as error:
            failed = error
    if not trusted:
        raise failed or OSError("no root certificate")


def _nobody() -> bytes:
    """Return no password: else OpenSSL would ask for one at the terminal."""
    return b""
