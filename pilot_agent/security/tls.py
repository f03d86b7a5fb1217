"""TLS towards the CA with the standard library: imported by short-lived workers only (6 ms)."""

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from pilot_agent.http import ConnectError, Deadline, HttpTimeoutError
from pilot_agent.security.compliance import check, limits_of, restrict

_HTTP2: Final = "h2"


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """How the peer is verified, and what it is shown."""

    server_name: str
    roots_pem: str
    client_chain_path: str = ""  # empty: no client certificate
    client_key_path: str = ""
    policy: str = ""  # COMPLIANCE_POLICY

    def secured(self, dial: Callable[[], socket.socket], deadline: Deadline) -> ssl.SSLSocket:
        """Return a connection that speaks HTTP/2, verified and within the policy; `dial` makes the plain one.

        Raises:
            HttpTimeoutError: the deadline passed.
            ConnectError, ComplianceError, OSError: no such connection.
        """
        *others, last = self._contexts()
        for context in others:
            try:
                return self._wrapped(dial(), context, deadline)
            except ssl.SSLCertVerificationError:
                raise
            except ssl.SSLError:
                continue  # it may want the next key exchange
        return self._wrapped(dial(), last, deadline)

    def _contexts(self) -> Iterator[ssl.SSLContext]:
        """Yield a context for each key exchange that may be offered by itself; one where any may."""
        limits = limits_of(self.policy)
        for group in limits.groups or ("",):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            restrict(context, limits, group)
            context.hostname_checks_common_name = False
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # an intermediate may be a root
            context.load_verify_locations(cadata=self.roots_pem)
            context.set_alpn_protocols([_HTTP2])
            if self.client_chain_path:
                context.load_cert_chain(self.client_chain_path, self.client_key_path)
            yield context

    def _wrapped(self, plain: socket.socket, context: ssl.SSLContext, deadline: Deadline) -> ssl.SSLSocket:
        with plain:  # which `wrap_socket` takes over, if it succeeds
            plain.settimeout(deadline.remaining_s())
            try:
                secured = context.wrap_socket(plain, server_hostname=self.server_name)
            except TimeoutError as error:
                raise HttpTimeoutError("context deadline exceeded") from error
        try:
            check(secured, limits_of(self.policy))
            if secured.selected_alpn_protocol() != _HTTP2:
                raise ConnectError("credentials: cannot check peer: missing selected ALPN property")
        except BaseException:
            secured.close()
            raise
        return secured
