"""A year of rotations in an hour: a real Envoy, handshakes all along, and certificates that are due at once.

    python -m benchmarks.rotations [--count N] [--policy sds|hot-restart] [--json FILE]

SECRET_GRACE_PERIOD_RATIO is 1, so each certificate is due as soon as it is there: as many rotations a
second as key generation, CA and workers give. A client makes TLS handshakes with the sidecar's inbound
listener all the time, requests go through the gateway, and Envoy's `/certs` is read over and over. At the
end: which of the serial numbers that the CA signed were seen there or in a handshake (policy `sds`; a hot
restart comes for many at once), failed handshakes and requests, and what the actors held on the way.

It ends with 1 if a handshake or a request failed, an actor was restarted, or a serial number was missed.

Caveats:
    - `/certs` is read every 20 ms or so: a certificate that lives for less may be missed.
    - Short-lived workers are counted when a sample meets one.
    - Wants root: the processes that keep secrets are readable for nobody else.
"""

import argparse
import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from benchmarks.rig import ACCOUNT, agent_for, mesh_on_free_ports, short_directory
from benchmarks.tree_memory import measure, tree
from lab.bookinfo import Bookinfo
from lab.istiod import Istiod
from lab.mesh import Mesh
from pilot_agent.security.certificate import certificate_facts
from tests.support.agent import RealAgent
from tests.support.load import Load
from tests.support.real_envoy import get

_LOOK_S: Final = 0.01
_SAMPLES: Final = 20
_ENVIRONMENT: Final = {
    "ECC_SIGNATURE_ALGORITHM": "ECDSA",
    "SECRET_GRACE_PERIOD_RATIO": "1",
    "SECRET_GRACE_PERIOD_RATIO_JITTER": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What supervisor and actors hold together."""

    rotations: int
    memory_mb: float
    descriptors: int
    threads: int


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run found."""

    policy: str
    rotations: int = 0
    duration_s: float = 0.0
    missed: list[str] = field(default_factory=list)  # signed, and never seen in /certs
    handshakes: int = 0
    failed_handshakes: list[str] = field(default_factory=list)
    requests: int = 0
    failed_requests: list[str] = field(default_factory=list)
    hot_restarts: int = 0
    actor_restarts: int = 0
    held: list[Held] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            f"{self.policy}: {self.rotations} rotations in {self.duration_s:.0f} s",
            f"{self.rotations / self.duration_s:.1f} rotations a second; hot restarts: {self.hot_restarts}",
            f"serial numbers never seen in /certs: {len(self.missed)} {self.missed[:5]}",
            f"handshakes: {self.handshakes}, failed: {_counted(self.failed_handshakes)}",
            f"requests: {self.requests}, failed: {_counted(self.failed_requests)}",
            f"actor restarts: {self.actor_restarts}",
            f"{'rotations':>10} {'memory MB':>10} {'descriptors':>12} {'threads':>8}",
        ]
        rows += [
            f"{one.rotations:>10} {one.memory_mb:>10.1f} {one.descriptors:>12} {one.threads:>8}"
            for one in self.held
        ]
        return "\n".join(rows)


def _counted(failures: Sequence[str]) -> str:
    return f"{len(failures)} {list(failures[:3])}"


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
        while not self._ending.wait(_LOOK_S):
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


def run(count: int, policy: str) -> Outcome:
    """Rotate `count` times and return what was seen."""
    mesh = mesh_on_free_ports()
    environment = _ENVIRONMENT | {"CERT_ROTATION_POLICY": policy}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        istiod = stack.enter_context(Istiod(mesh))
        stack.enter_context(Bookinfo(mesh))
        router = agent_for(istiod, directory / "router", role="router", account="istio-ingressgateway")
        sidecar = agent_for(istiod, directory / "sidecar", environment=environment)
        for agent in (router, sidecar):
            stack.enter_context(agent).wait_ready()
        hands = Handshakes(_inbound_port(mesh), client_context(istiod, directory))
        load = Load(mesh.gateway.listen.port, "/productpage")
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
    began_s, first = time.monotonic(), len(_signed(istiod))
    with hands, load:
        while (done := len(_signed(istiod)) - first) < count:
            with contextlib.suppress(OSError):  # between two epochs
                seen |= _serials(agent)
            if done >= len(found.held) * count // _SAMPLES:
                found.held.append(_held(agent, done))
            time.sleep(_LOOK_S)
        found.duration_s = time.monotonic() - began_s
        signed = _signed(istiod)[first : first + count]
        found.held.append(_held(agent, count))
    found.rotations = count
    found.missed = [serial for serial in signed[:-2] if serial not in seen | hands.serials]
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


def _held(agent: RealAgent, rotations: int) -> Held:
    assert agent.process is not None
    descriptors = threads = 0
    for pid in tree(agent.process.pid):
        with contextlib.suppress(OSError):  # a worker that has just ended
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
    memory_mb = measure(agent.process.pid).total / 1e6
    return Held(rotations=rotations, memory_mb=memory_mb, descriptors=descriptors, threads=threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once, print what was found; return 1 if something was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rotations", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--policy", choices=("sds", "hot-restart"), default="sds")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    found = run(asked.count, asked.policy)
    print(found)
    if asked.json is not None:
        asked.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    lost = found.failed_handshakes or found.failed_requests or found.actor_restarts
    return int(bool(lost or (asked.policy == "sds" and found.missed)))


if __name__ == "__main__":
    sys.exit(main())
