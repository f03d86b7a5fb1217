"""What the environment and ProxyConfig say about identity, CA and the SDS socket."""

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pilot_agent.environment import Environment
from pilot_agent.log import get_logger
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.security.os_roots import os_bundle
from pilot_agent.security.pem import blocks
from pilot_agent.security.work import KeyParameters, SignRequest

IDENTITY_DIRECTORY: Final = "./var/run/secrets/workload-spiffe-uds"
OWN_SOCKET: Final = "socket"
POLICIES: Final = ("", "fips-140-2", "fips-140-3", "pqc")
FILES_SOCKET: Final = "./var/run/secrets/credential-uds/files-socket"
MOUNTED_DIRECTORY: Final = "./var/run/secrets/workload-spiffe-credentials"
LEGACY_DIRECTORY: Final = "./etc/certs"
ISTIOD_ROOT: Final = "var/run/secrets/istio/root-cert.pem"
METADATA_HOST: Final = "169.254.169.254"
TOKEN: Final = "./var/run/secrets/tokens/istio-token"  # noqa: S105  # a path
GCE: Final = "GoogleComputeEngine"
CRL: Final = "/var/run/secrets/istio/crl/ca-crl.pem"

_SETTINGS, _FRAME_HEADER_BYTES = 4, 9
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))

_log = get_logger()


class SecurityConfigurationError(ValueError):
    """The agent cannot start with these settings; the text is the reference's where it has one."""


class CertificateFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where certificates stand if they come from files."""

    cert_path: str
    key_path: str
    root_path: str

    @classmethod
    def within(cls, directory: str, *, gke: bool = False) -> "CertificateFiles":
        """Return Istio's file names in `directory`, or those of GKE."""
        names = (
            ("certificates", "private_key", "ca_certificates") if gke else ("cert-chain", "key", "root-cert")
        )
        cert, key, root = (f"{directory}/{name}.pem" for name in names)
        return cls(cert_path=cert, key_path=key, root_path=root)

    def complete(self) -> bool:
        """Return whether all three exist."""
        return all(Path(path).is_file() for path in (self.cert_path, self.key_path, self.root_path))


class CaOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the CA is reached. `request` lacks only the CSR."""

    provider: str
    request: SignRequest


class SecurityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of CertActor and SdsActor."""

    key: KeyParameters
    trust_domain: str
    ca: CaOptions | None  # None: certificates come from files alone
    files: CertificateFiles
    socket_path: str  # of our own SDS server
    external_sds: bool  # somebody else serves Envoy's SDS socket; we serve files alone
    grace_ratio: float
    grace_ratio_jitter: float
    has_envoy: bool = True  # else nobody asks for secrets; they go to OUTPUT_CERTS unasked
    output_directory: str  # OUTPUT_CERTS; empty: nothing is written
    output_shared: bool  # in Kubernetes every user may read what is written there
    kept_directory: str  # where the identity outlives the container; empty: nowhere
    file_debounce_s: float
    os_bundle_path: str
    crl_path: str  # empty: PILOT_ENABLE_CA_CRL is off
    private_key_provider: Mapping[str, Any] | None  # Any: canonical JSON of ProxyConfig
    jwt_policy: str
    credential_fetcher: str

    @classmethod
    def build(
        cls,
        environment: Environment,
        proxy_config: ProxyConfig,
        node: Node,
        *,
        external_sds: bool | None = None,
    ) -> "SecurityOptions":
        """Return the settings; looks at sockets and files, so it is called once, at the agent's start.

        `external_sds` is what the version before has found, for one that takes its place: that one serves the
        socket still, and must not be taken for somebody else.

        Raises:
            SecurityConfigurationError: the agent cannot start so.

        Source: the reference's start-up decisions and CA client selection.
        """
        del node
        name = environment.string("WORKLOAD_IDENTITY_SOCKET_FILE", OWN_SOCKET)
        external = _external_sds(name) if external_sds is None else external_sds
        files, mounted = _files(environment)
        _check_provisioned(environment, mounted=mounted)
        ca = None if mounted or external else _ca(environment, proxy_config)
        return cls(
            key=KeyParameters.read(environment),
            trust_domain=environment.string("TRUST_DOMAIN", "cluster.local"),
            ca=ca,
            files=files,
            socket_path=FILES_SOCKET if external else f"{IDENTITY_DIRECTORY}/{OWN_SOCKET}",
            external_sds=external,
            grace_ratio=environment.number("SECRET_GRACE_PERIOD_RATIO", 0.5),
            grace_ratio_jitter=environment.number("SECRET_GRACE_PERIOD_RATIO_JITTER", 0.01),
            has_envoy=not environment.boolean("DISABLE_ENVOY", default=False),
            output_directory=environment.string("OUTPUT_CERTS"),
            output_shared=bool(environment.string("KUBERNETES_SERVICE_HOST")),
            kept_directory=_kept_directory(environment, proxy_config),
            file_debounce_s=environment.seconds("FILE_DEBOUNCE_DURATION", 0.1),
            os_bundle_path=os_bundle(),
            crl_path=CRL if environment.boolean("PILOT_ENABLE_CA_CRL", default=True) else "",
            private_key_provider=proxy_config.private_key_provider,
            jwt_policy=environment.string("JWT_POLICY", "third-party-jwt"),
            credential_fetcher=_credential_fetcher(environment),
        )

    def log_start(self) -> None:
        """Write the lines about token and trust domain that follow the effective configuration."""
        match self.jwt_policy:
            case "third-party-jwt":
                _log.info("JWT policy is third-party-jwt")
            case "first-party-jwt":
                _log.warn("Using deprecated JWT policy 'first-party-jwt'; treating as 'third-party-jwt'")
            case _:
                _log.info("Using existing certs")
        _log.info(
            f"using credential fetcher of {self.credential_fetcher} type in {self.trust_domain} trust domain"
        )
        if not self.os_bundle_path:
            _log.warn("OS CA Cert could not be found for agent")


def _kept_directory(environment: Environment, proxy_config: ProxyConfig) -> str:
    value = environment.string("IDENTITY_LAST_KNOWN_GOOD") or "auto"
    if value not in ("auto", "off"):
        environment.warnings.append(
            f"Invalid environment variable value `{value}` for IDENTITY_LAST_KNOWN_GOOD, using default auto: "
            "must be auto or off"
        )
    return "" if value == "off" else proxy_config.config_path


def _external_sds(name: str) -> bool:
    """Return whether somebody else serves Envoy's SDS socket; a dead socket file is removed.

    Raises:
        SecurityConfigurationError: the name is a path, or names a socket that nobody serves.
    """
    if name != os.path.basename(name) or not name:  # noqa: PTH119  # Path would drop a trailing slash
        raise SecurityConfigurationError(
            f"workload identity socket file override must be a filename, not a path: {name}"
        )
    path = Path(IDENTITY_DIRECTORY, name)
    if _answers(path):
        return True
    if _is_special(path):
        try:
            path.unlink()
        except OSError as error:
            raise SecurityConfigurationError(f"existing SDS socket could not be removed: {error}") from error
    if name != OWN_SOCKET:
        raise SecurityConfigurationError(
            f"agent configured for non-default SDS socket path: {path} but no socket found"
        )
    return False


def _is_special(path: Path) -> bool:
    """Return whether anything but a regular file is there: where nothing is, nothing needs to be writable."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _answers(path: Path) -> bool:
    """Return whether a gRPC server answers there within a second: HTTP/2's preface with its SETTINGS."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
            probe.sendall(_HTTP2_PREFACE)
            answer = probe.recv(_FRAME_HEADER_BYTES, socket.MSG_WAITALL)
        except OSError:
            return False
    return len(answer) == _FRAME_HEADER_BYTES and answer[3] == _SETTINGS


def _files(environment: Environment) -> tuple[CertificateFiles, bool]:
    """Return where certificate files would be, and whether nothing but files is used."""
    if environment.string("CA_PROVIDER", "Citadel") == "GkeWorkloadCertificate":
        gke = CertificateFiles.within(MOUNTED_DIRECTORY, gke=True)
        if not gke.complete():
            raise SecurityConfigurationError(
                f"GKE workload certificate files could not be found in {MOUNTED_DIRECTORY}"
            )
        return gke, True
    mounted = CertificateFiles.within(MOUNTED_DIRECTORY)
    if mounted.complete():
        return mounted, True
    return CertificateFiles.within(LEGACY_DIRECTORY), environment.boolean("FILE_MOUNTED_CERTS", default=False)


def _check_provisioned(environment: Environment, *, mounted: bool) -> None:
    if mounted and environment.string("PROV_CERT"):
        raise SecurityConfigurationError(
            "invalid options: PROV_CERT and FILE_MOUNTED_CERTS are mutually exclusive"
        )


def _credential_fetcher(environment: Environment) -> str:
    kind = environment.string("CREDENTIAL_FETCHER_TYPE", "JWT") or "JWT"
    if kind not in ("JWT", "Mock", GCE):
        raise SecurityConfigurationError(
            f"failed to create credential fetcher: invalid credential fetcher type {kind}"
        )
    return kind


def _ca(environment: Environment, proxy_config: ProxyConfig) -> CaOptions:
    own_address = environment.string("CA_ADDR")
    address = own_address or proxy_config.discovery_address
    provider = environment.string("CA_PROVIDER", "Citadel") or "Citadel"
    if "googleapis.com" in address:
        provider = "GoogleCA"
    if provider != "Citadel":
        raise SecurityConfigurationError(f'CA provider "{provider}" not registered')
    plaintext = address.endswith(":15010")
    provisioned = environment.string("PROV_CERT")
    fetcher = _credential_fetcher(environment)
    is_mock = fetcher == "Mock"
    return CaOptions(
        provider=provider,
        request=SignRequest(
            csr_pem="",
            address=address,
            server_name="" if own_address else environment.string("ISTIOD_SAN"),
            plaintext=plaintext,
            root_path="" if plaintext else _ca_root(environment),
            client_cert_path=f"{provisioned}/cert-chain.pem" if provisioned else "",
            client_key_path=f"{provisioned}/key.pem" if provisioned else "",
            token_path="" if is_mock else TOKEN,
            token="test_token" if is_mock else "",
            token_audience=environment.string("TRUST_DOMAIN", "cluster.local") if fetcher == GCE else "",
            metadata_host=environment.string("GCE_METADATA_HOST") or METADATA_HOST,
            validity_s=int(environment.seconds("SECRET_TTL", 24 * 3600.0)),
            cert_signer=environment.string("ISTIO_META_CERT_SIGNER"),
            workload=_workload(environment),
            compliance_policy=_compliance_policy(environment),
            headers=(
                ("ClusterID", environment.string("ISTIO_META_CLUSTER_ID")),
                *environment.items("CA_HEADER_"),
            ),
        ),
    )


def _compliance_policy(environment: Environment) -> str:
    policy = environment.string("COMPLIANCE_POLICY")
    if policy not in POLICIES:
        environment.warnings.append(f"unrecognized compliance policy: {policy!r}")
    return policy


def _workload(environment: Environment) -> str:
    """Return what a certificate must be for; empty where the environment does not say both parts."""
    namespace, account = environment.string("POD_NAMESPACE"), environment.string("SERVICE_ACCOUNT")
    return f"/ns/{namespace}/sa/{account}" if namespace and account else ""


def _ca_root(environment: Environment) -> str:
    """Return the file with the trust anchors of the CA connection; it exists and holds one at least."""
    root = environment.string("CA_ROOT_CA")
    provisioned = environment.string("PROV_CERT")
    provider = environment.string("PILOT_CERT_PROVIDER", "istiod")
    if root == "SYSTEM":
        path = os_bundle()
        if not path:
            raise SecurityConfigurationError("root CA of the system for CA does not exist")
    elif root:
        path = root
    elif provider == "custom":
        path = f"{LEGACY_DIRECTORY}/root-cert.pem"
    elif provisioned:
        path = f"{provisioned}/root-cert.pem"
    elif provider == "none":
        raise SecurityConfigurationError("root CA file for CA required but configured provider as none")
    else:
        path = ISTIOD_ROOT
    _check_root(path)
    return path


def _check_root(path: str) -> None:
    if not Path(path).is_file():
        raise SecurityConfigurationError(f"root CA file for CA does not exist {path}")
    try:
        text = Path(path).read_text(errors="replace")
    except OSError as error:
        raise SecurityConfigurationError(f"root CA file for CA {path} cannot be read: {error}") from error
    if not blocks(text, "CERTIFICATE"):
        raise SecurityConfigurationError(f"root CA file for CA {path} contains no PEM certificate")
