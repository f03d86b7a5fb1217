"""What metrics and status page are told of each certificate that CertActor serves, whoever issued it."""

from actors.runtime.context import Context
from pilot_agent.security.certificate import CertificateError, certificate_facts
from pilot_agent.security.material import Material
from pilot_agent.security.workload import Workload, status_notes


def show_material(context: Context, material: Material) -> None:
    """Tell of the first certificate of a chain or a bundle; one that cannot be read shows nothing.

    Source of "the first": the reference's `cert_expiry_seconds` of certificates from files.
    """
    pem = (material.certificate_chain_pem or material.trusted_ca_pem).decode()
    try:
        facts = certificate_facts(pem)
    except CertificateError:
        return
    notes = {
        "serial": facts.serial_number,
        "issuer": facts.issuer,
        "not_before": f"{facts.not_before_unix_s:.3f}",
        "not_after": f"{facts.not_after_unix_s:.3f}",
        "created": "",
        "rotate_at": "",  # who wrote the file, or runs the CA, knows
    }
    _show(context, material.name, facts.not_after_unix_s, notes)


def show_workload(context: Context, name: str, workload: Workload) -> None:
    """Tell of the certificate that the CA gave, with the time of its rotation."""
    _show(context, name, workload.not_after_s, status_notes(workload))


def _show(context: Context, name: str, not_after_unix_s: float, notes: dict[str, str]) -> None:
    context.gauge("cert_expiry_unix_s", not_after_unix_s, resource_name=name)
    for fact, text in notes.items():
        context.note(f"certificate/{name}/{fact}", text)
