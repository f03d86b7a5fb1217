"""Which root certificates and client certificate the connection to istiod uses.

Source: the reference's xDS proxy, TLS: the order of the rows is its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pilot_agent.environment import Environment
from pilot_agent.security.certificate import CertificateError, certificate_facts
from pilot_agent.security.os_roots import os_bundle
from pilot_agent.security.pem import blocks

SYSTEM: Final = "SYSTEM"
_WELL_KNOWN: Final = "./etc/certs/root-cert.pem"
_ISTIOD: Final = "var/run/secrets/istio/root-cert.pem"


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
        path = os_bundle()
        if not path:
            raise XdsRootError("this system has no bundle of root certificates, XDS_ROOT_CA is SYSTEM")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise XdsRootError(f"failed to read root CA file for XDS {path}: {error.strerror}") from error
    if not any(_is_certificate(block) for block in blocks(data.decode("latin-1"), "CERTIFICATE")):
        raise XdsRootError(f"failed to build the root certificate pool for XDS: no certificate in {path}")
    return data


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


def _existing(path: str) -> str:
    if not Path(path).is_file():
        raise XdsRootError(f"root CA file for XDS does not exist {path}")
    return path


def _is_certificate(block: str) -> bool:
    try:
        certificate_facts(block)
    except CertificateError:
        return False
    return True
