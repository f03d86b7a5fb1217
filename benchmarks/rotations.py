"""A year of rotations in an hour: a real Envoy, handshakes all along, three new certificates a second.

    python -m benchmarks.rotations [--count N] [--policy sds|hot-restart] [--rate N] [--out DIRECTORY]
    python -m benchmarks.rotations --report JSON [--out DIRECTORY]

SECRET_GRACE_PERIOD_RATIO is so near to 1 that each certificate is due a fraction of a second after it is
there. A client makes TLS handshakes with the sidecar's inbound listener all the time, requests go through
the gateway, and Envoy's `/certs` is read over and over. At the end: which of the serial numbers that the CA
signed were seen there (policy `sds`; a hot restart comes for many at once), failed handshakes and requests,
and what the agent held on the way.

It ends with 1 if a handshake or a request failed, an actor was restarted, or a serial number was missed.

Caveats:
    - `/certs` is read some fifteen times a second: a certificate that lives for less may be missed there; a
      handshake may have met it.
    - Wants root: the processes that keep secrets are readable for nobody else.
"""

import argparse
import contextlib
import json
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from benchmarks import rotations_report
from benchmarks.holdings import Holdings, look
from benchmarks.report import conditions
from benchmarks.rig import ACCOUNT, agent_for, mesh_on_free_ports, short_directory
from lab.bookinfo import Bookinfo
from lab.istiod import Istiod
from lab.mesh import Mesh
from pilot_agent.security.certificate import certificate_facts
from tests.support.agent import RealAgent
from tests.support.load import Load
from tests.support.real_envoy import get

_LOOK_S: Final = 0.05  # between two looks at /certs
_HANDSHAKE_S: Final = 0.1
_REQUEST_S: Final = 0.1  # of each of two clients
_SAMPLE_S: Final = 10.0
_TTL_S: Final = 600
_WORK_S: Final = 0.2  # what a rotation takes at least, from being due to the next one's begin


def environment(policy: str, per_s: float) -> dict[str, str]:
    """Return the variables for about so many rotations a second, by two processors' measure."""
    pause_s = max(0.0, 1 / per_s - _WORK_S)
    return {
        "CERT_ROTATION_POLICY": policy,
        "ECC_SIGNATURE_ALGORITHM": "ECDSA",
        "SECRET_GRACE_PERIOD_RATIO": f"{1 - pause_s / _TTL_S:.7f}",
        "SECRET_GRACE_PERIOD_RATIO_JITTER": "0",
        "SECRET_TTL": f"{_TTL_S}s",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the agent held after so many rotations."""

    at_s: float
    rotations: int
    holdings: Holdings


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run found."""

    policy: str
    conditions: dict[str, str] = field(default_factory=conditions)
    rotations: int = 0
    duration_s: float = 0.0
    missed_in_certs: list[str] = field(default_factory=list)  # signed, and never seen in /certs
    missed: list[str] = field(default_factory=list)  # nor in a handshake
    handshakes: int = 0
    failed_handshakes: list[str] = field(default_factory=list)
    requests: int = 0
    failed_requests: list[str] = field(default_factory=list)
    hot_restarts: int = 0
    actor_restarts: int = 0
    held: list[Held] = field(default_factory=list)

    def __str__(self) -> str:
        rate = f"{self.rotations / self.duration_s:.1f} a second"
        rows = (
            f"{self.policy}: {self.rotations} rotations in {self.duration_s:.0f} s, {rate}",
            f"hot restarts: {self.hot_restarts}",
            f"serial numbers never seen in /certs: {_counted(self.missed_in_certs)}",
            f"of them not in a handshake either: {_counted(self.missed)}",
            f"handshakes: {self.handshakes}, failed: {_counted(self.failed_handshakes)}",
            f"requests: {self.requests}, failed: {_counted(self.failed_requests)}",
            f"actor restarts: {self.actor_restarts}",
        )
        return "\n".join(rows)


def _counted(failures: Sequence[str]) -> str:
    return f"{len(failures)} {list(failures[:3]) or ''}".rstrip()


class Handshakes:
    """Makes TLS handshakes with a mesh client's certificate, one after the other, until it is left."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port, self._context = port, context
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.count, self.failures = 0, list[str]()
        self.serials: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._ending.wait(_HANDSHAKE_S):
            try:
                address = ("127.0.0.1", self._port)
                with (
                    socket.create_connection(address, timeout=5) as plain,
                    self._context.wrap_socket(plain) as tls,
                ):
                    shown = tls.getpeercert(binary_form=True)
                assert shown is not None
                self.serials.add(certificate_facts(ssl.DER_cert_to_PEM_cert(shown)).serial_number)
            except OSError as error:
                self.failures.append(str(error))
            self.count += 1


def client_context(istiod: Istiod, directory: Path) -> ssl.SSLContext:
    """Return what a caller of the mesh shakes hands with; the chain of the server is verified."""
    pair = istiod.authority.issue("spiffe://cluster.local/ns/default/sa/istio-ingressgateway")
    chain, key, root = directory / "client.pem", directory / "client-key.pem", directory / "client-root.pem"
    chain.write_bytes(pair.certificate_chain_pem)
    key.write_bytes(pair.private_key_pem)
    root.write_text(istiod.root_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a SPIFFE ID and no host name
    context.load_verify_locations(root)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["istio"])
    return context


def run(count: int, policy: str, per_s: float = 3.0) -> Outcome:
    """Rotate `count` times and return what was seen; Ctrl-C ends it early."""
    mesh = mesh_on_free_ports()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        istiod = stack.enter_context(Istiod(mesh))
        stack.enter_context(Bookinfo(mesh))
        router = agent_for(istiod, directory / "router", role="router", account="istio-ingressgateway")
        sidecar = agent_for(istiod, directory / "sidecar", environment=environment(policy, per_s))
        for agent in (router, sidecar):
            stack.enter_context(agent).wait_ready()
        hands = Handshakes(_inbound_port(mesh), client_context(istiod, directory))
        load = Load(mesh.gateway.listen.port, "/productpage", pause_s=_REQUEST_S)
        return _rotated(istiod, sidecar, (hands, load), Outcome(policy=policy), count)


def _inbound_port(mesh: Mesh) -> int:
    return next(one for one in mesh.services if one.name == "productpage").workloads[0].inbound.port


def _signed(istiod: Istiod) -> list[str]:
    return [
        one.serial_number
        for one in list(istiod.observed.csrs)
        if one.outcome == "signed" and one.spiffe_id.endswith(f"/sa/{ACCOUNT}")
    ]


def _rotated(
    istiod: Istiod, agent: RealAgent, clients: tuple[Handshakes, Load], found: Outcome, count: int
) -> Outcome:
    (hands, load), seen = clients, set[str]()
    began_s, first = time.monotonic(), istiod.observed.csrs_signed()
    known = len(_signed(istiod))
    sample_s = began_s
    with hands, load, contextlib.suppress(KeyboardInterrupt):
        while (done := istiod.observed.csrs_signed() - first) < count:
            with contextlib.suppress(OSError):  # between two epochs
                seen |= _serials(agent)
            if time.monotonic() >= sample_s:
                sample_s += _SAMPLE_S
                found.held.append(_held(agent, began_s, done))
                print(_line(found.held[-1], hands, load), flush=True)
            time.sleep(_LOOK_S)
    found.duration_s = time.monotonic() - began_s
    signed = _signed(istiod)[known:]
    found.held.append(_held(agent, began_s, len(signed)))
    found.rotations = len(signed)
    found.missed_in_certs = [serial for serial in signed[:-2] if serial not in seen]
    found.missed = [serial for serial in found.missed_in_certs if serial not in hands.serials]
    found.handshakes, found.failed_handshakes = hands.count, hands.failures
    found.requests, found.failed_requests = load.sent, load.failures
    status = json.loads(get(agent.status_port, "/status")[1])
    found.actor_restarts = sum(actor["restarts"] for actor in status["actors"])
    found.hot_restarts = agent.restart_epoch()
    return found


def _serials(agent: RealAgent) -> set[str]:
    certificates = json.loads(agent.admin("/certs"))["certificates"]
    return {
        f"{int(chain['serial_number'], 16):x}"
        for entry in certificates
        for chain in entry.get("cert_chain", ())
    }


def _held(agent: RealAgent, began_s: float, rotations: int) -> Held:
    assert agent.process is not None
    holdings = look(agent.process.pid, agent.directory)
    return Held(at_s=round(time.monotonic() - began_s, 3), rotations=rotations, holdings=holdings)


def _line(held: Held, hands: Handshakes, load: Load) -> str:
    each = held.holdings.processes.values()
    own_mib = sum(one.own_kib for one in each) / 1024
    descriptors, threads = (sum(getattr(one, what) for one in each) for what in ("descriptors", "threads"))
    return (
        f"{held.at_s:6.0f} s  {held.rotations} rotations  {own_mib:.1f} MiB own  {descriptors} descriptors  "
        f"{threads} threads  {hands.count} handshakes, {len(hands.failures)} failed  {load.sent} requests, "
        f"{len(load.failures)} failed"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once, print what was found; return 1 if something was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rotations", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--policy", choices=("sds", "hot-restart"), default="sds")
    parser.add_argument("--rate", type=float, default=3.0, help="rotations a second, about")
    parser.add_argument("--out", type=Path, default=Path("rotations"), metavar="DIRECTORY")
    parser.add_argument("--report", type=Path, metavar="JSON", help="of a run that is over, nothing else")
    parser.add_argument("--note", default="", help="a condition to be told in the report")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.report is not None:
        document = rotations_report.read(asked.report)
        rotations_report.write(document, asked.out, f"rotations-{document['policy']}")
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    found = run(asked.count, asked.policy, asked.rate)
    if asked.note:
        found.conditions["note"] = asked.note
    print(found)
    name = f"rotations-{asked.policy}"
    (asked.out / f"{name}.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    rotations_report.write(asdict(found), asked.out, name)
    lost = found.failed_handshakes or found.failed_requests or found.actor_restarts
    return int(bool(lost or (asked.policy == "sds" and found.missed)))


if __name__ == "__main__":
    sys.exit(main())
