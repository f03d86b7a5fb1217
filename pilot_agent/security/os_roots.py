"""Where the operating system keeps its trust anchors."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

OS_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-certificates",
)


def os_bundle(candidates: Iterable[str] = OS_BUNDLES) -> str:
    """Return the first bundle that exists, or an empty text.

    Source: the reference's list, evaluated once at the start.
    """
    return next((path for path in candidates if Path(path).is_file()), "")
