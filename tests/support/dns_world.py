"""A real agent with DNS capture on, before a real name server on port 53 of an own loopback address."""

import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import dns.exception
import dns.message
import dns.query
import pytest

from lab.istiod import Istiod
from lab.mesh import Mesh
from lab.resources import world_of
from lab.snapshot import NDS, NodeInfo, Resource, Snapshot, World
from tests.support.agent import RealAgent
from tests.support.name_tables import Host, encoded
from tests.support.resolver import Client, SmallResolver, free_dns_port

ZONE = {"istio.io.": ["5.6.7.8"]}
HOSTS = {
    "details.default.svc.cluster.local": Host(["1.2.3.4"], "Kubernetes", "details", "default"),
    "external.example": Host(["9.9.9.9"], "External"),
}


def with_hosts(mesh: Mesh, hosts: Mapping[str, Host] | bytes | None) -> World:
    """Return the mesh's world with this name table instead of its own; None: without any."""

    def world(node: NodeInfo) -> Snapshot:
        by_type = {kind: found for kind, found in world_of(mesh)(node).by_type.items() if kind != NDS}
        if hosts is not None:
            table = hosts if isinstance(hosts, bytes) else encoded(hosts)
            by_type[NDS] = {"": Resource.of("", NDS, table)}
        return Snapshot(by_type=by_type)

    return world


@dataclass
class DnsWorld:
    """`agent` is not started; `client` asks its DNS proxy."""

    istiod: Istiod
    mesh: Mesh
    agent: RealAgent
    resolver: SmallResolver
    port: int

    @property
    def client(self) -> Client:
        return Client(self.port)

    def push(self, hosts: Mapping[str, Host] | bytes | None) -> None:
        self.istiod.push(with_hosts(self.mesh, hosts))


def need_mounts() -> None:
    """Skip where a file cannot be mounted over /etc/resolv.conf for one process."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("wants root, to give the agent a resolv.conf of its own and to listen on port 53")


@contextmanager
def name_server() -> Iterator[SmallResolver]:
    """A name server on port 53 of a loopback address that nobody else has."""
    with SmallResolver(
        ZONE, host=f"127.53.{random.randrange(256)}.{random.randrange(1, 255)}", port=53
    ) as server:
        yield server


def own_resolv_conf(directory: Path, text: str) -> tuple[str, ...]:
    """Return the prefix of a command that gives it this /etc/resolv.conf."""
    directory.mkdir(parents=True, exist_ok=True)
    conf = directory / "resolv.conf"
    conf.write_text(text)
    return ("unshare", "-m", "sh", "-c", f'mount --bind {conf} /etc/resolv.conf && exec "$@"', "sh")


def dns_settings(directory: Path, server: SmallResolver) -> tuple[int, dict[str, Any]]:
    """Return the proxy's port and what an agent with it is made with: its keyword arguments."""
    port = free_dns_port()
    search = "default.svc.cluster.local svc.cluster.local cluster.local"
    prefix = own_resolv_conf(directory, f"nameserver {server.host}\nsearch {search}\n")
    environment = {
        "ISTIO_META_DNS_CAPTURE": "true",
        "DNS_PROXY_ADDR": f"localhost:{port}",
        "DNS_FORWARD_TIMEOUT": "2s",
    }
    return port, {"prefix": prefix, "environment": environment}


@dataclass
class Asking:
    """Asks one name for ever, a query at a time, and notes how long each answer took."""

    client: Client
    name: str
    took_s: list[float] = field(default_factory=list)
    lost: int = 0  # queries without an answer within a second
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._over.is_set():
            began_s = time.monotonic()
            try:
                reply = self.client.ask(self.name, within_s=1.0)
            except dns.exception.Timeout:
                self.lost += 1
                continue
            self.took_s.append(time.monotonic() - began_s)
            if not reply.answer:
                self.wrong.append(str(reply))
