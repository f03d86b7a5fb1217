"""Everything that the xDS path reads from its surroundings at start."""

from pathlib import Path
from typing import Final, Self

import msgspec

from pilot_agent.dns.options import dns_is_on
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.security.server_name import server_name
from pilot_agent.xds import roots

_STREAMS_LIMIT: Final = 100
"""Each stream holds a thread, so ISTIO_GPRC_MAXSTREAMS (100000) cannot be had; Envoy opens one or two."""


MESSAGE_LIMIT_BYTES: Final = 128 << 20
"""The memory limit of the two xDS actors has room for five messages of the limit, see `actors.tree`."""
_REFERENCES_LIMIT_BYTES: Final = (1 << 31) - 1
_STORE: Final = "./var/lib/istio/data/xds-last-known-good"


class LastKnownGood(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the store that a start without istiod is served from."""

    directory: str = _STORE
    limit_bytes: int = 256 << 20  # of all files together, when compact
    grace_s: float = 1.0  # so long a first answer of istiod's is waited for
    owner: tuple[str, ...] = ()  # what a file is bound to, beside Envoy's node id

    @classmethod
    def build(cls, environment: Environment, proxy_config: ProxyConfig) -> Self | None:
        """Return the settings, None where XDS_LAST_KNOWN_GOOD turns it off."""
        if not environment.switch("XDS_LAST_KNOWN_GOOD", default=True):
            return None
        return cls(
            limit_bytes=environment.integer("XDS_LAST_KNOWN_GOOD_MAX_BYTES", 256 << 20),
            grace_s=environment.seconds("XDS_LAST_KNOWN_GOOD_GRACE", 1.0),
            owner=(
                proxy_config.discovery_address,
                environment.string("ISTIO_META_CLUSTER_ID"),
                environment.string("SERVICE_ACCOUNT"),
            ),
        )


class XdsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of both halves of the xDS path."""

    socket_path: str  # where Envoy connects
    upstream_address: str  # host:port of istiod
    cluster_id: str = ""
    headers: tuple[tuple[str, str], ...] = ()  # XDS_HEADER_*, names in lower case
    token_path: str = "./var/run/secrets/tokens/istio-token"  # noqa: S105  # a path; empty: no token
    token: str = ""  # instead of a file's: the fetcher Mock
    is_plaintext: bool = False
    root_path: str = ""  # a PEM file, or SYSTEM; empty when plaintext
    root_pem: bytes = b""  # what stood there at start
    server_name: str = ""  # empty: the name in the address
    client_key_path: str = ""
    client_chain_path: str = ""
    compliance_policy: str = ""  # COMPLIANCE_POLICY
    keepalive_interval_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    receive_limit_bytes: int = 4 << 20  # of one request of Envoy's
    streams_limit: int = _STREAMS_LIMIT
    message_limit_bytes: int = MESSAGE_LIMIT_BYTES  # of one response of istiod's
    wants_name_table: bool = False  # the agent's DNS server is on
    wants_trust_bundle: bool = False  # PCDS
    last_known_good: LastKnownGood | None = None  # None: nothing is kept, nothing is served from it

    @classmethod
    def build(cls, environment: Environment, proxy_config: ProxyConfig, node: Node) -> Self:
        """Read the variables.

        Raises:
            XdsRootError: TLS is on and its root certificates are missing or unreadable.
        """
        is_plaintext = proxy_config.control_plane_auth_policy == "NONE"
        path = "" if is_plaintext else roots.root_path(environment, proxy_config.proxy_metadata)
        key_path, chain_path = roots.client_pair(environment, proxy_config.proxy_metadata)
        address = proxy_config.discovery_address
        return cls(
            socket_path=str(Path(proxy_config.config_path) / "XDS"),
            upstream_address=address,
            cluster_id=environment.string("ISTIO_META_CLUSTER_ID"),
            headers=tuple((name.lower(), value) for name, value in environment.items("XDS_HEADER_") if name),
            token="test_token" if environment.string("CREDENTIAL_FETCHER_TYPE") == "Mock" else "",
            is_plaintext=is_plaintext,
            root_path=path,
            root_pem=roots.read_roots(path) if path else b"",
            server_name=server_name(address, environment.string("ISTIOD_SAN")),
            client_key_path=key_path,
            client_chain_path=chain_path,
            compliance_policy=environment.string("COMPLIANCE_POLICY"),
            keepalive_interval_s=environment.seconds("GRPC_KEEPALIVE_INTERVAL", 30.0),
            keepalive_timeout_s=environment.seconds("GRPC_KEEPALIVE_TIMEOUT", 10.0),
            receive_limit_bytes=environment.integer("ISTIO_GPRC_MAXRECVMSGSIZE", 4 << 20),
            streams_limit=min(environment.integer("ISTIO_GPRC_MAXSTREAMS", 100_000), _STREAMS_LIMIT),
            message_limit_bytes=_message_limit(environment),
            wants_name_table=dns_is_on(environment, node),
            wants_trust_bundle=environment.boolean("PROXY_CONFIG_XDS_AGENT", default=False),
            last_known_good=LastKnownGood.build(environment, proxy_config),
        )


def _message_limit(environment: Environment) -> int:
    wanted = environment.integer("XDS_MAX_MESSAGE_BYTES", MESSAGE_LIMIT_BYTES)
    return min(wanted, _REFERENCES_LIMIT_BYTES) if wanted > 0 else MESSAGE_LIMIT_BYTES
