"""Waits until the sidecar's certificate is due and watches its rotation: serials, epochs, requests."""

import socket
import ssl
import time

from cryptography import x509

from lab.demo.http import Load
from lab.demo.layout import SIDECAR_CERTIFICATE_S
from lab.demo.show import StepFailedError, say
from lab.demo.stage import Stage
from lab.demo.waiting import until

_LOAD_PATH = "/api/v1/products/0"
_AFTER_S = 1.0
_LATER_CERTIFICATES_S = 86_400


def look_at_the_first(stage: Stage) -> list[str]:
    """Remember the serial that is served now, and have the control plane sign for longer from here on."""
    stage.first_serial = until(lambda: served_serial(stage), what="the sidecar's certificate", within_s=10)
    stage.istiod.faults.certificate_ttl_s = _LATER_CERTIFICATES_S
    return [f"the sidecar's certificate has serial {stage.first_serial} and lasts {SIDECAR_CERTIFICATE_S} s"]


def rotate(stage: Stage) -> list[str]:
    """Return what was seen from the certificate's due time to the old epoch's end, under load.

    Raises:
        StepFailedError: it did not rotate, the epoch is not 1, or a request failed.
    """
    agent, first_serial = stage.sidecar, stage.first_serial
    old = agent.envoys()
    with Load(stage.gateway_port, _LOAD_PATH) as load:
        within_s = SIDECAR_CERTIFICATE_S
        say(f"        a certificate of {within_s} s is due at half of its life; waiting for it under load")
        serial = until(
            lambda: _other(served_serial(stage), first_serial),
            what="a new serial",
            within_s=within_s,
            every_s=0.1,
        )
        epoch = until(agent.epoch, what="epoch 1 LIVE", within_s=30, every_s=0.05)
        overlap = agent.envoys()
        until(lambda: len(agent.envoys()) == 1, what="the old epoch's end", within_s=60, every_s=0.1)
        time.sleep(_AFTER_S)
        seen = load.seen()
    new = agent.envoys()
    shown = [
        f"serial on the wire {first_serial} → {serial}",
        f"epoch 0 → {epoch}, Envoy's pid {old} → {new} (together for a while: {overlap})",
        f"requests {seen.sent}, failed {len(seen.failures)}",
    ]
    if epoch != 1 or new == old:
        raise StepFailedError("\n".join([*shown, "expected epoch 1 in a new process"]))
    if seen.failures:
        raise StepFailedError("\n".join([*shown, f"the first failure: {seen.failures[0]}"]))
    return shown


def served_serial(stage: Stage) -> str:
    """Return the serial number, in hexadecimal, of the certificate that the sidecar shows its callers.

    Raises:
        OSError: no TLS there.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only looks at what is shown
    address = ("127.0.0.1", stage.page_inbound_port)
    with socket.create_connection(address, timeout=5) as plain, context.wrap_socket(plain) as secure:
        data = secure.getpeercert(binary_form=True)
    if data is None:
        raise OSError("the sidecar shows no certificate")
    return f"{x509.load_der_x509_certificate(data).serial_number:x}"


def _other(serial: str, than: str) -> str:
    return "" if serial == than else serial
