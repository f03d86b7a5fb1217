"""Opens connections to istiod: one channel for each stream, with roots and token of the moment."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pilot_agent.log import get_logger
from pilot_agent.security.certificate import CertificateError, certificate_facts
from pilot_agent.xds import roots
from pilot_agent.xds.methods import METHODS
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.requests import Variant

if TYPE_CHECKING:
    import grpc

    from pilot_agent.xds.istiod_call import IstiodCall

_WINDOW_BYTES: Final = 1 << 20
_HEADER_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[ -~]*")
_log = get_logger("xdsproxy")


def load() -> None:
    """Import gRPC, so that no connection waits for it: some 40 ms."""
    import pilot_agent.xds.istiod_call  # noqa: PLC0415, F401


class DialError(OSError):
    """The connection's options are unusable; nothing was sent."""


class Connection:
    """One channel and the stream on it; who opened it closes it."""

    def __init__(self, channel: "grpc.Channel", metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.channel = channel
        self._metadata = metadata
        self._call: IstiodCall | None = None

    def start(self, variant: Variant) -> "IstiodCall":
        """Begin the stream."""
        from pilot_agent.xds.istiod_call import IstiodCall  # noqa: PLC0415  # imports gRPC

        self._call = IstiodCall(self.channel, METHODS[variant], self._metadata)
        return self._call

    def close(self) -> None:
        """End the stream too, if it has not ended; on the thread that reads it."""
        if self._call is not None:
            self._call.close()
        self.channel.close()


class Dialer:
    """Knows how istiod is reached. Used by many threads; the roots of the last good read are kept."""

    def __init__(self, options: XdsOptions) -> None:
        self._options = options
        self._root_pem = options.root_pem

    def connect(self) -> Connection:
        """Return a new connection, which is made when its stream starts; TLS 1.2 is gRPC's own minimum.

        Raises:
            DialError: the client's key cannot be read, or a header cannot be sent.
        """
        import grpc  # noqa: PLC0415  # only this actor's process has it

        options, metadata = self._options, self._metadata()
        if options.is_plaintext:
            channel = grpc.insecure_channel(options.upstream_address, options=self._channel_options())
        else:
            channel = grpc.secure_channel(
                options.upstream_address, self._credentials(), options=self._channel_options()
            )
        return Connection(channel, metadata)

    def _channel_options(self) -> tuple[tuple[str, object], ...]:
        options = self._options
        common: tuple[tuple[str, object], ...] = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.max_receive_message_length", options.message_limit_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.keepalive_time_ms", int(options.keepalive_interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
        )
        if options.is_plaintext or not options.server_name:
            return common
        return (
            *common,
            ("grpc.ssl_target_name_override", options.server_name),
            ("grpc.default_authority", options.server_name),
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
        """Return the token as it stands in its file now; a missing one is only warned about."""
        path = self._options.token_path
        if not path:
            return ""
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            _log.warn(f"failed to read token file {path}, going on without a token: {error}")
            return ""

    def _credentials(self) -> "grpc.ChannelCredentials":
        import grpc  # noqa: PLC0415  # only this actor's process has it

        try:
            self._root_pem = roots.read_roots(self._options.root_path)
        except roots.XdsRootError as error:
            _log.warn(f"root certificates for XDS not reloaded, the old ones stay: {error}")
        key, chain = self._client_pair()
        return grpc.ssl_channel_credentials(self._root_pem, key, chain)

    def _client_pair(self) -> tuple[bytes | None, bytes | None]:
        """Return key and chain if the certificate can be used; an unusable one leaves it to the token."""
        options = self._options
        if not options.client_key_path or not options.client_chain_path:
            return None, None
        try:
            chain = Path(options.client_chain_path).read_bytes()
            not_after_unix_s = certificate_facts(chain.decode("latin-1")).not_after_unix_s
        except (OSError, CertificateError) as error:
            _log.warn(f"client certificate {options.client_chain_path} not offered: {error}")
            return None, None
        if not_after_unix_s < time.time():
            _log.warn(f"client certificate {options.client_chain_path} has expired, going on with the token")
            return None, None
        try:
            return Path(options.client_key_path).read_bytes(), chain
        except OSError as error:
            raise DialError(f"client key {options.client_key_path}: {error.strerror}") from error
