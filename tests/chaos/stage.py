"""Where the chaos plays: gateway and sidecar, an istiod that can fail, small file systems, traffic.

Everything that is mounted stands in a mount namespace of the program's own (`own_mounts`), so that nothing
is left behind however it ends. Without root there are no mounts, and the faults that want them are left out.
"""

import json
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from lab.bookinfo import Bookinfo
from lab.istiod import Istiod
from lab.mesh import Address, Mesh, load_mesh
from lab.snapshot import Resource
from tests.chaos import resources
from tests.chaos.clients import Dns, Http1, Http2, Tcp, echo_server
from tests.chaos.traffic import Client, Traffic
from tests.scenarios.conftest import agent_for
from tests.support import namespaces
from tests.support.agent import ROLES, RealAgent, short_directory
from tests.support.dns_world import ZONE, name_server
from tests.support.faulty_way import FaultyWay
from tests.support.mounted import publish_files
from tests.support.proxy_wasm import header_filter
from tests.support.real_envoy import PortMap, envoy_path, free_ports, get
from tests.support.resolver import SmallResolver, free_dns_port
from tests.support.site import Site, page
from tests.support.waiting import wait_for

Variant = Literal["hot-restart", "sds", "files", "clock"]
"""The sidecar: its rotation policy, with short certificates; mounted files; a clock that can jump."""

ALL_ROLES: Final = (*ROLES, "dns")
CERTIFICATE_S: Final = 60
"""Lifetime in the variants with rotations; due after a fifth of it: a CA may be away for a while."""

INSIDE: Final = str(Path(__file__).with_name("inside.py"))
SMALL: Final = {"etc": "24m", "var": "24m"}
"""File systems of the sidecar's directory: they can be full without this machine's being so."""

_VERSIONS: Final = ("v1", "v2", "v3")
_MEMORY: Final = "96m"


@dataclass(kw_only=True)
class Stage:
    """The world of one episode; `sidecar` is the agent that faults strike, unless they name the gateway."""

    variant: Variant
    draw: random.Random
    mesh: Mesh
    istiod: Istiod
    way: FaultyWay  # sidecar → discovery
    ca_way: FaultyWay  # sidecar → CA
    sidecar: RealAgent
    router: RealAgent
    traffic: Traffic
    has_mounts: bool
    resolver: SmallResolver | None
    addresses: Mapping[str, Address]
    module_urls: tuple[str, ...]
    ballast: tuple[Resource, ...] = ()
    published: int = 0
    version: str = ""
    notes: list[str] = field(default_factory=list)

    def agent(self, name: str) -> RealAgent:
        return self.router if name == "router" else self.sidecar

    def roles(self, agent: RealAgent) -> tuple[str, ...]:
        """Return the actors that this agent has."""
        return ALL_ROLES if agent is self.sidecar and self.resolver is not None else ROLES

    def push(self, version: str | None = None) -> str:
        """Push a world with all reviews by this version (None: another than before); return the version."""
        version = version or self.draw.choice([each for each in _VERSIONS if each != self.version])
        self.version = version
        self.istiod.push(
            resources.world(
                self.mesh.with_split("reviews", {version: 100}),
                **self.addresses,
                module=self.draw.choice(self.module_urls),
                ballast=self.ballast,
            )
        )
        return version

    def serves(self, version: str) -> bool:
        """Return whether gateway and sidecar both have the push: each has a route to reviews of its own."""
        by_gateway = {get(self.port, "/reviews/0")[0]["x-served-by"] for _ in range(3)}
        path = "/api/v1/products/0/reviews"
        by_sidecar = {json.loads(get(self.port, path)[1])["podname"] for _ in range(3)}
        return by_gateway == by_sidecar == {f"reviews-{version}"}

    @property
    def port(self) -> int:
        return self.mesh.gateway.listen.port

    def publish(self) -> None:
        """Mount a new set of certificates, as the kubelet does."""
        pair = self.istiod.authority.issue(
            "spiffe://cluster.local/ns/default/sa/bookinfo-apps", validity_s=3600
        )
        folder = self.sidecar.directory / "etc/certs"
        publish_files(
            folder,
            self.published,
            key=pair.private_key_pem.decode(),
            chain=pair.certificate_chain_pem.decode(),
            roots=self.istiod.root_pem,
        )
        self.published += 1

    def provision(self) -> None:
        self.istiod.provision(self.sidecar.directory, "default", "bookinfo-apps")


def own_mounts() -> bool:
    """Give this process mounts of its own, before it has threads; return whether it could be done."""
    if os.geteuid() != 0:
        return False
    try:
        namespaces.unshare(namespaces.NEW_MOUNT)
        namespaces.make_mounts_private()
        namespaces.memory_on(Path("/dev/shm"), mode="1777", size=_MEMORY)
    except OSError as error:
        sys.stderr.write(f"no mounts of our own, faults of file systems are left out: {error}\n")
        return False
    return True


@contextmanager
def stage(variant: Variant, draw: random.Random, *, has_mounts: bool) -> Iterator[Stage]:
    """Yield a world in good health: both agents ready, traffic flowing."""
    mesh = load_mesh().with_ports(PortMap())
    with ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        for name, size in SMALL.items() if has_mounts else ():
            place = directory / "sidecar" / name
            place.mkdir(parents=True)
            namespaces.memory_on(place, size=size)
            stack.callback(namespaces.unmount, place)
        addresses = {
            name: Address("127.0.0.1", port)
            for name, port in zip(("way_in", "way_through", "wasm"), free_ports(3), strict=True)
        }
        addresses["echo"] = Address("127.0.0.1", stack.enter_context(echo_server()))
        site = stack.enter_context(Site())
        for name in ("one", "two"):
            site.pages[f"/{name}.wasm"] = page(header_filter(name))
        istiod = stack.enter_context(Istiod(mesh))
        if variant != "clock":
            istiod.faults.certificate_ttl_s = CERTIFICATE_S
        stack.enter_context(Bookinfo(mesh))
        target = ("127.0.0.1", int(istiod.address.rpartition(":")[2]))
        way, ca_way = stack.enter_context(FaultyWay(target)), stack.enter_context(FaultyWay(target))
        resolver = stack.enter_context(name_server()) if has_mounts else None
        settings = _settings(variant, ca_way, directory)
        dns_port = 0
        if resolver is not None:
            dns_port = _own_dns(resolver, directory, settings)
            stack.callback(namespaces.unmount, Path("/etc/resolv.conf").resolve())
        config = {"discoveryAddress": way.address}
        if variant == "clock":
            config["binaryPath"] = str(_envoy_with_the_true_clock(directory))
        sidecar = agent_for(
            istiod,
            directory / "sidecar",
            environment=settings,
            proxy_config=config,
            prefix=(sys.executable, INSIDE),
        )
        router = agent_for(
            istiod,
            directory / "router",
            "router",
            environment={"CERT_ROTATION_POLICY": "sds", "SECRET_GRACE_PERIOD_RATIO": "0.8"},
            prefix=(sys.executable, INSIDE),
        )
        made = Stage(
            variant=variant,
            draw=draw,
            mesh=mesh,
            istiod=istiod,
            way=way,
            ca_way=ca_way,
            sidecar=sidecar,
            router=router,
            traffic=Traffic(_clients(mesh, addresses, dns_port)),
            has_mounts=has_mounts,
            resolver=resolver,
            addresses=addresses,
            module_urls=(f"{site.url}/one.wasm", f"{site.url}/two.wasm"),
        )
        made.push("v1")
        if variant == "files":
            made.publish()
        stack.enter_context(router)
        stack.enter_context(sidecar)
        sidecar.wait_ready(60)
        router.wait_ready(60)
        wait_for(lambda: made.serves("v1"), within_s=20, what="the first request")
        stack.enter_context(made.traffic)
        made.traffic.wait_good()
        yield made


def _settings(variant: Variant, ca_way: FaultyWay, directory: Path) -> dict[str, str]:
    settings = {
        "CA_ADDR": ca_way.address,
        "CERT_ROTATION_POLICY": "sds" if variant in ("sds", "clock") else "hot-restart",
        "SECRET_GRACE_PERIOD_RATIO": "0.5" if variant == "clock" else "0.8",
    }
    if variant == "files":
        settings["XDS_ROOT_CA"] = "var/run/secrets/istio/root-cert.pem"
    if variant == "clock":
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        (directory / "clock").write_text("+0")
        settings |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(directory / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "XDS_LAST_KNOWN_GOOD": "off",  # its thread sleeps, which this library sometimes refuses
        }
    return settings


def _envoy_with_the_true_clock(directory: Path) -> Path:
    """Return a program that starts Envoy without the faked clock, under which it does not come up."""
    path = directory / "envoy-with-the-true-clock"
    path.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec "{envoy_path()}" "$@"\n')
    path.chmod(0o755)
    return path


def _own_dns(resolver: SmallResolver, directory: Path, settings: dict[str, str]) -> int:
    """Have everybody here ask this name server, and the sidecar proxy it; return the proxy's port."""
    conf = directory / "resolv.conf"
    conf.write_text(f"nameserver {resolver.host}\nsearch default.svc.cluster.local\n")
    namespaces.bind(conf, Path("/etc/resolv.conf").resolve())
    port = free_dns_port()
    settings |= {"ISTIO_META_DNS_CAPTURE": "true", "DNS_PROXY_ADDR": f"localhost:{port}"}
    return port


def _clients(mesh: Mesh, addresses: Mapping[str, Address], dns_port: int) -> dict[str, Any]:
    """Return the kinds of traffic that there can be here."""
    port, tcp = mesh.gateway.listen.port, addresses["way_in"].port
    made: dict[str, Any] = {
        "http1-new": lambda: Http1(port, "/productpage", kept=False),
        "http1-kept": lambda: Http1(port, "/api/v1/products", kept=True),
        "http2": lambda: Http2(port, "/api/v1/products"),
        "tcp-new": lambda: Tcp(tcp, kept=False),
        "tcp-kept": lambda: Tcp(tcp, kept=True),
        "wasm": lambda: Http1(addresses["wasm"].port, "/", kept=True, header="x-wasm"),
    }
    if dns_port:
        name = next(iter(ZONE))
        names = (f"details.default.{mesh.domain}.", name)
        made["dns"] = lambda: _TwoNames(dns_port, names)
    return made


class _TwoNames:
    """Asks in turn for a name of the mesh and for one that is forwarded."""

    def __init__(self, port: int, names: tuple[str, ...]) -> None:
        self._clients: list[Client] = [Dns(port, name) for name in names]

    def once(self) -> None:
        client = self._clients.pop(0)
        self._clients.append(client)
        client.once()

    def close(self) -> None:
        """There is nothing to close."""
