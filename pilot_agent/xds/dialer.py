"""Opens streams to istiod: a connection for each, with roots and token of the moment."""

import re
import time
from pathlib import Path
from typing import Final

from pilot_agent.log import get_logger
from pilot_agent.rpc.client import ClientCall, Keepalive, Secured, Target
from pilot_agent.security.certificate import CertificateError, certificate_facts
from pilot_agent.xds import roots
from pilot_agent.xds.methods import METHODS
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.requests import Variant

_HEADER_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[ -~]*")
_log = get_logger("xdsproxy")


def load() -> None:
    """Have what TLS needs at hand, so that no connection waits for it: some 15 ms."""
    import pilot_agent.http.proxy  # noqa: PLC0415
    import pilot_agent.security.tls  # noqa: PLC0415

    pilot_agent.security.tls.begin()


class DialError(OSError):
    """The connection's options are unusable; nothing was sent."""


class Dialer:
    """Knows how istiod is reached. Used by many threads; the roots of the last good read are kept."""

    def __init__(self, options: XdsOptions) -> None:
        self._options = options
        self._root_pem = options.root_pem

    def call(self, variant: Variant) -> ClientCall:
        """Return a new stream on a connection of its own, which is made when its responses are read.

        Raises:
            DialError: the client's key cannot be read, or a header cannot be sent.
        """
        options = self._options
        target = Target(
            address=options.upstream_address,
            secured=None if options.is_plaintext else self._secured(),
            authority="" if options.is_plaintext else options.server_name,
            user_timeout_s=options.keepalive_timeout_s,
        )
        return ClientCall(
            target,
            METHODS[variant],
            self._metadata(),
            limit_bytes=options.message_limit_bytes,
            keepalive=Keepalive(
                interval_s=options.keepalive_interval_s, timeout_s=options.keepalive_timeout_s
            ),
        )

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        headers: list[tuple[str, str | bytes]] = [("clusterid", self._options.cluster_id)]
        headers += [
            (name, value.encode() if name.endswith("-bin") else value)
            for name, value in self._options.headers
        ]
        token = self._token()
        headers += [("authorization", f"Bearer {token}")] if token else []
        for name, value in headers:
            if not _HEADER_NAME.fullmatch(name) or (isinstance(value, str) and not _TEXT.fullmatch(value)):
                raise DialError(f"header {name!r} cannot be sent: its name or value has illegal characters")
        return tuple(headers)

    def _token(self) -> str:
        """Return the token as it stands in its file now; one that cannot be used is only warned about."""
        path = self._options.token_path
        if self._options.token or not path:
            return self._options.token
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            _log.warn(f"failed to read token file {path}, going on without a token: {error}")
            return ""
        if not token or not _TEXT.fullmatch(token):
            problem = "has bytes that no token has" if token else "is empty"
            _log.warn(f"token file {path} {problem}, going on without a token")
            return ""
        return token

    def _secured(self) -> Secured:
        from pilot_agent.security.tls import Tls  # noqa: PLC0415  # imported late, see `load`

        options = self._options
        try:
            self._root_pem = roots.read_roots(options.root_path)
        except roots.XdsRootError as error:
            _log.warn(f"root certificates for XDS not reloaded, the old ones stay: {error}")
        key_path, chain_path = self._client_pair()
        tls = Tls(
            server_name=options.server_name or options.upstream_address.rpartition(":")[0].strip("[]"),
            roots_pem=self._root_pem.decode("latin-1"),
            client_chain_path=chain_path,
            client_key_path=key_path,
            policy=options.compliance_policy,
        )
        try:
            return Secured(tuple(tls.contexts()), tls.server_name, tls.check)
        except (OSError, ValueError) as error:
            raise DialError(f"TLS for the XDS server: {getattr(error, 'reason', '') or error}") from error

    def _client_pair(self) -> tuple[str, str]:
        """Return the paths of key and chain if the certificate can be used; empty: it is up to the token."""
        options = self._options
        if not options.client_key_path or not options.client_chain_path:
            return "", ""
        try:
            chain = Path(options.client_chain_path).read_bytes()
            not_after_unix_s = certificate_facts(chain.decode("latin-1")).not_after_unix_s
        except (OSError, CertificateError) as error:
            _log.warn(f"client certificate {options.client_chain_path} not offered: {error}")
            return "", ""
        if not_after_unix_s < time.time():
            _log.warn(f"client certificate {options.client_chain_path} has expired, going on with the token")
            return "", ""
        try:
            Path(options.client_key_path).read_bytes()  # OpenSSL's error would not say which file it is
        except OSError as error:
            raise DialError(f"client key {options.client_key_path}: {error.strerror}") from error
        return options.client_key_path, options.client_chain_path
