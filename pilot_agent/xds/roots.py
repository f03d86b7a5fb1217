"""Which root certificates, server name and client certificate the connection to istiod uses.

Source: the reference's xDS proxy, TLS: the order of the rows is its own.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig.hostport import split_host_port

SYSTEM: Final = "SYSTEM"
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Gentoo, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL 6
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/pki/tls/cacert.pem",  # OpenELEC
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # CentOS, RHEL 7
    "/etc/ssl/cert.pem",  # Alpine
)
_WELL_KNOWN: Final = "./etc/certs/root-cert.pem"
_ISTIOD: Final = "var/run/secrets/istio/root-cert.pem"
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.+?)-----END CERTIFICATE-----", re.DOTALL)


class XdsRootError(ValueError):
    """The connection to istiod cannot be secured as configured: the agent ends at start."""


def root_path(environment: Environment, proxy_metadata: Mapping[str, str]) -> str:
    """Return the path of the root certificates for istiod, or SYSTEM.

    Raises:
        XdsRootError: the file does not exist, or none is provided for.
    """
    chosen = environment.string("XDS_ROOT_CA")
    if chosen:
        return SYSTEM if chosen == SYSTEM else _existing(chosen)
    if Path(_WELL_KNOWN).is_file():
        return _WELL_KNOWN
    provisioned = environment.string("PROV_CERT")
    if provisioned:
        return str(Path(provisioned) / "root-cert.pem")
    if environment.boolean("FILE_MOUNTED_CERTS", default=False):
        return _existing(proxy_metadata.get("ISTIO_META_TLS_CLIENT_ROOT_CERT", ""))
    if environment.string("PILOT_CERT_PROVIDER", "istiod") == "none":
        raise XdsRootError("root CA file for XDS required but configured provider as none")
    return _existing(_ISTIOD)


def read_roots(path: str) -> bytes:
    """Return the PEM bundle at `path`, or that of the operating system for SYSTEM.

    Raises:
        XdsRootError: it cannot be read, or holds no certificate.
    """
    if path == SYSTEM:
        path = next((bundle for bundle in _SYSTEM_BUNDLES if Path(bundle).is_file()), _SYSTEM_BUNDLES[0])
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise XdsRootError(f"failed to read root CA file for XDS {path}: {error.strerror}") from error
    if not any(_is_certificate(body) for body in _PEM.findall(data)):
        raise XdsRootError(f"failed to build the root certificate pool for XDS: no certificate in {path}")
    return data


def server_name(discovery_address: str, istiod_san: str) -> str:
    """Return the name that istiod's certificate must have; empty when the address names none."""
    if istiod_san:
        return istiod_san
    try:
        host, _ = split_host_port(discovery_address)
    except ValueError:
        return ""
    return "istiod.istio-system.svc" if "localhost" in host else host


def client_pair(environment: Environment, proxy_metadata: Mapping[str, str]) -> tuple[str, str]:
    """Return the paths of the client's key and chain; two empty texts for none."""
    provisioned = environment.string("PROV_CERT")
    if provisioned:
        return str(Path(provisioned) / "key.pem"), str(Path(provisioned) / "cert-chain.pem")
    if environment.boolean("FILE_MOUNTED_CERTS", default=False):
        return (
            proxy_metadata.get("ISTIO_META_TLS_CLIENT_KEY", ""),
            proxy_metadata.get("ISTIO_META_TLS_CLIENT_CERT_CHAIN", ""),
        )
    return "", ""


def first_certificate(pem: bytes) -> bytes | None:
    """Return the DER bytes of the first certificate of a PEM bundle, None if there is none."""
    return next((_der(body) for body in _PEM.findall(pem) if _is_certificate(body)), None)


def _existing(path: str) -> str:
    if not Path(path).is_file():
        raise XdsRootError(f"root CA file for XDS does not exist {path}")
    return path


def _is_certificate(body: bytes) -> bool:
    """Return whether base64 text holds a DER SEQUENCE, which every certificate is."""
    der = _der(body)
    return der is not None and der[:1] == b"\x30"


def _der(body: bytes) -> bytes | None:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        return None
