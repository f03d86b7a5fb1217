"""What CertActor is asked and what it announces.

The private key stands in `SecretReady` alone, and never in a repr.
"""

from typing import Literal

import msgspec

from pilot_agent.redacted import without

RotationReason = Literal["due", "trust_bundle_changed", "file_changed", "operator"]


class GetSecret(msgspec.Struct, frozen=True, kw_only=True):
    """Sds → Cert: announce the material for `resource_name`, making it first if need be.

    Mirrors: `SecretManager.GenerateSecret`. Reply: SecretReady, or SecretFailed with the same name.
    """

    resource_name: str


class RotateNow(msgspec.Struct, frozen=True, kw_only=True):
    """Health → Cert: an operator wants new material before the old is due. Reply: SecretReady."""

    reason: RotationReason


class TrustBundle(msgspec.Struct, frozen=True, kw_only=True):
    """UpstreamXds → Cert: the trust anchors that istiod pushed (PCDS); replaces the last bundle.

    Mirrors: the PCDS handler of the xDS proxy.
    """

    ca_certificates_pem: tuple[str, ...]


class SecretReady(msgspec.Struct, frozen=True, kw_only=True):
    """Cert → Sds: material for `resource_name` is in place and may be served. Latest wins.

    A key pair ("default", "file-cert:") has both PEMs of the pair and an empty bundle; roots
    ("ROOTCA", "file-root:") have `trusted_ca_pem` alone.

    Mirrors: the `secretHandler` callback (`OnSecretUpdate`).
    """

    resource_name: str
    version_info: str  # grows with every new material; equal versions mean equal bytes
    certificate_chain_pem: bytes = b""  # leaf first
    private_key_pem: bytes = b""  # never in a log line
    trusted_ca_pem: bytes = b""
    not_after_unix_s: float = 0.0  # end of the leaf's validity; 0.0 for roots

    __repr__ = without("private_key_pem")


class SecretFailed(msgspec.Struct, frozen=True, kw_only=True):
    """Cert → Sds: the material asked for cannot be had now; the text is what Envoy's stream is told."""

    resource_name: str
    reason: str


class IdentityRotated(msgspec.Struct, frozen=True, kw_only=True):
    """Cert → Envoy: the workload certificate was replaced (never sent for the first one).

    Mirrors: the old `agent.restartCh`.
    """

    reason: RotationReason
    serial_number: str  # of the new leaf, lower-case hexadecimal without a prefix
    not_after_unix_s: float
