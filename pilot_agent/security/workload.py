"""What CertActor keeps: the workload's certificate, the mesh's trust bundle, and the versions given out."""

import time
from typing import Final

import msgspec

from pilot_agent.redacted import without
from pilot_agent.security.certificate import CertificateError, certificate_facts
from pilot_agent.security.material import Material
from pilot_agent.security.pem import blocks, merge_bundles
from pilot_agent.security.resource_names import ROOTS, WORKLOAD
from pilot_agent.security.rotation import seconds_until_rotation
from pilot_agent.security.work import Signed

FORMAT: Final = 1
CLOCK_BACK_S: Final = 60.0
"""A certificate that was made so long after now was made before the clock was set back."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate with its key; times are seconds since the epoch."""

    key_pem: str
    chain_pem: str
    root_pem: str  # as the CA sent it, not merged
    created_s: float  # the local clock when it was signed
    not_after_s: float
    serial_number: str
    rotate_at_s: float
    version_info: str

    __repr__ = without("key_pem")

    def is_due(self, now_s: float) -> bool:
        """Return whether to rotate now; after the clock was set back, nobody knows how much time is left."""
        return now_s >= min(self.rotate_at_s, self.not_after_s) or now_s < self.created_s - CLOCK_BACK_S


class FileServed(msgspec.Struct, frozen=True, kw_only=True):
    """Material that came from files: what it was, so that a change is known for one."""

    name: str
    digest: str
    version_info: str


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The notebook's state. `untold` is the reason of a rotation that Envoy's actor was not told yet."""

    format: int = FORMAT
    spiffe_id: str
    workload: Workload | None = None
    trust_bundle: tuple[str, ...] = ()
    roots_version_info: str = ""
    last_version: int = 0
    failures: int = 0  # signings that failed in a row
    untold: str = ""
    files: tuple[FileServed, ...] = ()

    def numbered(self, now_s: float) -> tuple["Identity", str]:
        """Return a new version_info (RFC 3339 time, slash, counter) and the identity that has given it."""
        number = self.last_version + 1
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
        return msgspec.structs.replace(self, last_version=number), f"{stamp}/{number}"

    def valid_workload(self, now_s: float) -> Workload | None:
        """Return the certificate unless there is none or it has expired."""
        workload = self.workload
        return workload if workload is not None and workload.not_after_s > now_s else None


def restored(kept: Identity | None, *, spiffe_id: str, now_s: float) -> tuple[Identity, str]:
    """Return the identity to begin with, and why nothing was taken over (empty if it was).

    An expired certificate stays, though it is not served: it may be the clock that is wrong.
    """
    fresh = Identity(spiffe_id=spiffe_id)
    if kept is None:
        return fresh, "nothing kept"
    if kept.format != FORMAT or kept.spiffe_id != spiffe_id:
        return fresh, f"kept for {kept.spiffe_id!r} in format {kept.format}"
    workload = kept.workload
    if workload is None:
        return kept, "no certificate"
    if not (blocks(workload.chain_pem, "CERTIFICATE") and "PRIVATE KEY-----" in workload.key_pem):
        return fresh, "damaged"
    return kept, "" if workload.not_after_s > now_s else "the certificate has expired"


def issued(
    before: Identity, *, key_pem: str, signed: Signed, now_s: float, grace_ratio: float, jitter: float
) -> tuple[Identity, Workload, bool]:
    """Return the identity with the new certificate in place, that certificate, and whether its root is new.

    A local clock that is behind would see more life than the certificate has: its own lifetime bounds that.
    The very first root counts as new, as in the reference. For `jitter` see `seconds_until_rotation`.

    Raises:
        ValueError: the certificate has expired already.
    """
    delay_s = seconds_until_rotation(
        created_s=now_s,
        not_after_s=min(signed.not_after_unix_s, now_s + signed.lifetime_s),
        now_s=now_s,
        grace_ratio=grace_ratio,
        jitter=jitter,
    )
    identity, version_info = before.numbered(now_s)
    workload = Workload(
        key_pem=key_pem,
        chain_pem=signed.chain_pem,
        root_pem=signed.root_pem,
        created_s=now_s,
        not_after_s=signed.not_after_unix_s,
        serial_number=signed.serial_number,
        rotate_at_s=now_s + delay_s,
        version_info=version_info,
    )
    is_new_root = before.workload is None or before.workload.root_pem != signed.root_pem
    if is_new_root:
        identity, roots_version_info = identity.numbered(now_s)
        identity = msgspec.structs.replace(identity, roots_version_info=roots_version_info)
    return msgspec.structs.replace(identity, workload=workload, failures=0), workload, is_new_root


def pair_material(workload: Workload) -> Material:
    """Return the key pair as it is served."""
    return Material(
        name=WORKLOAD,
        version_info=workload.version_info,
        certificate_chain_pem=workload.chain_pem.encode(),
        private_key_pem=workload.key_pem.encode(),
        not_after_unix_s=workload.not_after_s,
    )


def roots_material(identity: Identity, workload: Workload) -> Material:
    """Return the roots as they are served: the CA's merged with the trust bundle."""
    merged = merge_bundles(workload.root_pem, identity.trust_bundle)
    return Material(name=ROOTS, version_info=identity.roots_version_info, trusted_ca_pem=merged.encode())


def status_notes(workload: Workload) -> dict[str, str]:
    """Return what the status page says of the certificate; times are seconds since the epoch."""
    notes = {
        "serial": workload.serial_number,
        "not_after": f"{workload.not_after_s:.3f}",
        "created": f"{workload.created_s:.3f}",
        "rotate_at": f"{workload.rotate_at_s:.3f}",
    }
    try:
        facts = certificate_facts(workload.chain_pem)
    except CertificateError:
        return notes  # it was taken over from elsewhere; what it says is not known
    return notes | {"issuer": facts.issuer, "not_before": f"{facts.not_before_unix_s:.3f}"}
