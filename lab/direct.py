"""Serves an Envoy directly, without an agent: ADS and SDS on two Unix sockets, as the agent's are.

This is what the agent is measured against: the same Envoy, the same configuration, no agent between.

    python -m lab.direct --xds etc/istio/proxy/XDS --sds var/run/secrets/workload-spiffe-uds/socket
"""

import argparse
import itertools
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from lab.access import Access
from lab.ads import AdsService
from lab.authority import Authority, KeyPair
from lab.faults import Faults
from lab.mesh import BOOKINFO, Mesh, load_mesh
from lab.observed import Observed
from lab.resources import world_of
from lab.server import listen, make_server, quit_server, unix_address
from lab.snapshot import SDS, Resource, Snapshot, World, everyone_sees
from lab.tokens import TokenIssuer

if TYPE_CHECKING:
    import grpc


class Direct:
    """ADS with `world` on socket `xds`; SDS with `identity` and `root_pem` on socket `sds`."""

    def __init__(
        self, world: Mesh | World, *, xds: Path, sds: Path, identity: KeyPair, root_pem: str
    ) -> None:
        self._paths, self._root_pem, self._identity = (xds, sds), root_pem, identity
        self.faults = Faults()
        self.observed, self.observed_sds = Observed(), Observed()
        access = Access(TokenIssuer(), self.faults)
        self._ads = AdsService(access=access, faults=self.faults, observed=self.observed)
        self._sds = AdsService(access=access, faults=self.faults, observed=self.observed_sds)
        self._versions = itertools.count(1)
        self._servers: list[grpc.Server] = []
        self.push(world)
        self.rotate(identity)

    def start(self) -> Self:
        for path, service in zip(self._paths, (self._ads, self._sds), strict=True):
            server = make_server(service.handlers())
            listen(server, unix_address(path), None)
            server.start()
            self._servers.append(server)
        return self

    def quit(self) -> None:
        while self._servers:
            quit_server(self._servers.pop())
        for path in self._paths:
            path.unlink(missing_ok=True)

    def push(self, world: Mesh | World) -> None:
        """Serve a new world and push what differs."""
        self._ads.set_world(world_of(world) if isinstance(world, Mesh) else world, self._version())

    def send_raw(self, data: bytes) -> None:
        """Send bytes as one message on every ADS stream."""
        self._ads.send_raw(data)

    def rotate(self, identity: KeyPair) -> None:
        """Push another key pair as `default`."""
        self._sds.set_world(everyone_sees(secrets(identity, self._root_pem)), self._version())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.quit()

    def _version(self) -> str:
        return f"direct/{next(self._versions)}"


def secrets(identity: KeyPair, root_pem: str) -> Snapshot:
    """Return the two secrets that a sidecar's Envoy asks its agent for."""
    default, root = secret_pb2.Secret(name="default"), secret_pb2.Secret(name="ROOTCA")
    default.tls_certificate.certificate_chain.inline_bytes = identity.certificate_chain_pem
    default.tls_certificate.private_key.inline_bytes = identity.private_key_pem
    root.validation_context.trusted_ca.inline_bytes = root_pem.encode()
    return Snapshot.of(*(Resource.of(one.name, SDS, one.SerializeToString()) for one in (default, root)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; prints one line when both sockets listen."""
    parser = argparse.ArgumentParser(prog="python -m lab.direct", description="ADS and SDS for one Envoy.")
    parser.add_argument("--config", type=Path, default=BOOKINFO)
    parser.add_argument("--xds", type=Path, required=True)
    parser.add_argument("--sds", type=Path, required=True)
    parser.add_argument("--service-account", default="bookinfo-apps")
    options = parser.parse_args(arguments)
    mesh, authority = load_mesh(options.config), Authority()
    identity = authority.issue(mesh.spiffe_id(options.service_account))
    quit_now = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: quit_now.set())
    with Direct(mesh, xds=options.xds, sds=options.sds, identity=identity, root_pem=authority.root_pem):
        print(f"serving {options.config} on {options.xds} and {options.sds}", flush=True)
        quit_now.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
