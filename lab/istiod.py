"""The lab's istiod: discovery and CA on one TLS port, for trying out and for tests.

    with Istiod(load_mesh()) as istiod:
        istiod.provision(workdir, "default", "bookinfo-apps")
        ...  # run an agent with discoveryAddress = istiod.address
        istiod.push(changed_mesh)

As a program it says what it is, writes root certificate and tokens, and follows its YAML files:

    python -m lab.istiod --config lab/config/bookinfo.yaml --port 15012 --out /some/directory
"""

import argparse
import itertools
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from lab.access import Access
from lab.ads import AdsService
from lab.authority import Authority
from lab.ca_service import CaService
from lab.faults import Faults
from lab.mesh import BOOKINFO, Mesh, MeshError, config_files, load_mesh
from lab.observed import Observed
from lab.resources import world_of
from lab.server import Handler, listen, make_server, quit_server, tls
from lab.snapshot import World
from lab.tokens import TokenIssuer

SERVER_NAMES = ("istiod.istio-system.svc", "istiod.istio-system.svc.cluster.local", "localhost", "127.0.0.1")
_NOTICE = "lab control plane, for trying out and testing; in a mesh istiod does this job"


class Istiod:
    """One control plane. Keys, tokens, records and switches survive `restart`; streams do not.

    Args:
        world: A mesh, or a function from node to snapshot (recordings, generated configuration).
        host: Address to listen on.
        port: TLS port; 0 takes a free one at the first start and keeps it.
        plaintext: Also listen without TLS, on a free port (`plaintext_address`).
        require_client_certificate: Take only clients with a certificate of `authority` (mTLS).
        names: What its own certificate is for.
    """

    def __init__(
        self,
        world: Mesh | World,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        plaintext: bool = False,
        require_client_certificate: bool = False,
        authority: Authority | None = None,
        trust_domain: str = "cluster.local",
        names: Sequence[str] = SERVER_NAMES,
    ) -> None:
        self._names = names
        self.authority = authority or Authority()
        self.tokens, self.faults, self.observed = TokenIssuer(), Faults(), Observed()
        self.trust_domain = world.trust_domain if isinstance(world, Mesh) else trust_domain
        self._host, self._port, self._plaintext_port = host, port, 0
        self._plaintext, self._require_client_certificate = plaintext, require_client_certificate
        self._access = Access(self.tokens, self.faults)
        self._ads = AdsService(access=self._access, faults=self.faults, observed=self.observed)
        self._counter = itertools.count(1)
        self._born = _timestamp()
        self._world = world
        self._server: grpc.Server | None = None
        self._closing = threading.Event()

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def plaintext_address(self) -> str:
        return f"{self._host}:{self._plaintext_port}"

    @property
    def root_pem(self) -> str:
        return self.authority.root_pem

    def mint_token(self, namespace: str, service_account: str, ttl_s: float = 3600.0) -> str:
        """Return a service account token; a negative `ttl_s` gives an expired one."""
        return self.tokens.mint(namespace, service_account, ttl_s=ttl_s)

    def provision(self, directory: Path, namespace: str, service_account: str) -> None:
        """Write what a pod gets mounted, below the agent's working directory: CA root and token."""
        secrets = directory / "var" / "run" / "secrets"
        _write(secrets / "istio" / "root-cert.pem", self.root_pem)
        _write(secrets / "tokens" / "istio-token", self.mint_token(namespace, service_account))

    def start(self) -> Self:
        """Listen; the same ports as before after a `quit`.

        Raises:
            PortTakenError: a port cannot be bound.
        """
        assert self._server is None, "already started"
        self._closing = threading.Event()
        self.push(self._world)
        server = make_server((*self._ads.handlers(), self._ca_handler()))
        pair = self.authority.issue(*self._names)
        client_root = self.root_pem if self._require_client_certificate else None
        self._port = listen(server, self.address, tls(pair, client_root_pem=client_root))
        if self._plaintext:
            self._plaintext_port = listen(server, self.plaintext_address, None)
        server.start()
        self._server = server
        return self

    def quit(self) -> None:
        """Cut all streams and free the ports; `start` brings it back."""
        if self._server is not None:
            server, self._server = self._server, None
            self._closing.set()
            quit_server(server)

    def restart(self) -> None:
        """Be a new istiod on the same ports: new versions, no memory of any stream."""
        self.quit()
        self._born = _timestamp()
        self._counter = itertools.count(1)
        self.start()

    def push(self, world: Mesh | World | None = None) -> str:
        """Serve a new world (None: the same again, under a new version); return its version."""
        if world is not None:
            self._world = world
        version = f"{self._born}/{next(self._counter)}"
        served = world_of(self._world) if isinstance(self._world, Mesh) else self._world
        self._ads.set_world(served, version)
        return version

    def send_raw(self, data: bytes) -> None:
        """Send bytes as one message on every stream: garbage, or a recorded response."""
        self._ads.send_raw(data)

    def disconnect_all(
        self, code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE, text: str = "told to disconnect"
    ) -> None:
        """End every discovery stream with this status; None ends them gracefully."""
        self._ads.end_all(code, text)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.quit()

    def _ca_handler(self) -> Handler:
        service = CaService(
            authority=self.authority,
            access=self._access,
            trust_domain=self.trust_domain,
            faults=self.faults,
            observed=self.observed,
            closing=self._closing,
        )
        return service.handler()


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM, following changes of the YAML file."""
    parser = argparse.ArgumentParser(prog="python -m lab.istiod", description=_NOTICE)
    parser.add_argument("--config", type=Path, default=BOOKINFO, help="YAML file of the mesh, or a directory")
    parser.add_argument("--port", type=int, default=15012)
    parser.add_argument("--out", type=Path, required=True, help="where root-cert.pem and tokens/ are written")
    parser.add_argument("--gateway-account", default="istio-ingressgateway")
    options = parser.parse_args(arguments)
    try:
        known = _state(options.config)
        mesh = load_mesh(options.config)
        istiod = Istiod(mesh, port=options.port).start()
    except (MeshError, OSError) as error:
        print(f"lab.istiod: {error}", file=sys.stderr)
        return 1
    quit_now = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: quit_now.set())
    accounts = {options.gateway_account, *(one.service_account for one in mesh.services)}
    _write_out(istiod, options.out, mesh.namespace, sorted(accounts))
    print(
        f"{_NOTICE}\nlistening on {istiod.address}; root certificate and tokens in {options.out}", flush=True
    )
    _follow(options.config, known, istiod, quit_now)
    istiod.quit()
    return 0


def _write_out(istiod: Istiod, out: Path, namespace: str, accounts: Sequence[str]) -> None:
    _write(out / "root-cert.pem", istiod.root_pem)
    for account in accounts:
        _write(out / "tokens" / account, istiod.mint_token(namespace, account, ttl_s=30 * 86_400))


def _state(config: Path) -> object:
    """Return what differs after a change of the files."""
    return [(file, file.stat().st_mtime_ns) for file in config_files(config)]


def _follow(config: Path, known: object, istiod: Istiod, quit_now: threading.Event) -> None:
    while not quit_now.wait(0.5):
        try:
            if _state(config) == known:
                continue
            known = _state(config)
            print(f"{config} changed: pushed {istiod.push(load_mesh(config))}", flush=True)
        except (MeshError, OSError) as error:
            print(f"{config} changed, kept the old: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
