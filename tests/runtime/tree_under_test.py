"""A tree of test actors, run as a program of its own: the supervisor forks, so it must be alone.

Every actor listens on `<dir>/<role>.sock` for one JSON command a connection and answers with one JSON
value. Usage: tree_under_test.py DIR
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from actors.messages.cert import GetSecret, SecretReady
from actors.messages.control import (
    EndAgent,
    EnvoyExited,
    EnvoyInventory,
    EnvoySpawned,
    EnvoySpawnFailed,
    PeerRestarted,
    Quit,
    SpawnEnvoy,
    StartActor,
    TreeState,
)
from actors.messages.xds import NameTable, StreamClosed, StreamId
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context, WorkerFinished
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import MIB, ChildSpec
from actors.runtime.supervisor import Supervisor


@dataclass(frozen=True)
class Where:
    directory: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What a test actor keeps in its notebook."""

    text: str


class Puppet(RuntimeActor):
    """Does what its command socket says."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.got: list[Any] = []
        self.bodies = 0
        self.hog: list[bytearray] = []

    def on_start(self) -> None:
        path = Path(self.context.settings(Where).directory) / f"{self.context.role}.sock"
        path.unlink(missing_ok=True)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(64)
        self.context.on_channel(NameTable, self.on_response)
        threading.Thread(target=self.serve, daemon=True).start()
        self.context.ready()

    def on_response(self, _sender: Role, message: NameTable) -> None:
        self.bodies += len(message.body)
        self.got.append(["NameTable", len(message.body), message.body[:1].hex(), message.body[-1:].hex()])

    def on_message(self, message: object) -> object:
        match message:
            case ("hang",):
                while True:
                    time.sleep(1)
            case ("crash",):
                raise RuntimeError("told to crash")
            case TreeState():
                self.tree = message
            case WorkerFinished():
                self.got.append(
                    ["worker", message.result.decode() if message.result else None, message.error]
                )
            case Quit():
                self.context.tell_supervisor(EndAgent(reason="asked to", exit_status=7))
            case GetSecret():
                self.got.append(["GetSecret", message.resource_name])
            case SecretReady():
                self.got.append(["SecretReady", len(message.certificate_chain_pem)])
            case PeerRestarted():
                self.got.append(["PeerRestarted", message.role, message.incarnation])
            case EnvoySpawned():
                self.got.append(["EnvoySpawned", message.process.pid])
            case EnvoySpawnFailed():
                self.got.append(["EnvoySpawnFailed", message.reason])
            case EnvoyExited():
                self.got.append(["EnvoyExited", message.process.pid, message.status])
            case EnvoyInventory():
                self.got.append(
                    ["EnvoyInventory", [p.pid for p in message.alive], [e.status for e in message.ended]]
                )
            case _:
                self.got.append([type(message).__name__])
        return None

    def serve(self) -> None:
        while True:
            connection, _ = self.server.accept()
            with connection, connection.makefile("rwb") as file:
                command, *arguments = json.loads(file.readline())
                answer = getattr(self, f"do_{command}")(*arguments)
                file.write(json.dumps(answer).encode() + b"\n")

    def do_state(self) -> Any:
        return {
            "pid": os.getpid(),
            "incarnation": self.context.incarnation,
            "got": self.got,
            "bodies": self.bodies,
        }

    def do_tree(self) -> Any:
        tree = getattr(self, "tree", None)
        if tree is None:
            return None
        return [[a.role, a.pid, a.restarts, a.pss_bytes, a.descriptors, a.counters] for a in tree.actors]

    def do_save(self, text: str) -> None:
        self.context.notebook.save(Kept(text))

    def do_restore(self) -> str | None:
        kept = self.context.notebook.restore(Kept)
        return kept.text if kept else None

    def do_ask_secret(self, name: str) -> None:
        self.context.send(Role.CERT, GetSecret(resource_name=name))

    def do_response(self, size: int) -> None:
        body = b"\1" + bytes(size - 2) + b"\2"
        self.context.send(Role.DOWNSTREAM_XDS, NameTable(body=body))

    def do_request(self, count: int) -> None:
        for number in range(count):
            self.context.send(Role.UPSTREAM_XDS, StreamClosed(stream=StreamId(1, number), reason="x" * 200))

    def do_tell(self, *message: str) -> None:
        self.context.tell_self(tuple(message))

    def do_thread_crash(self) -> None:
        threading.Thread(target=lambda: 1 // 0).start()

    def do_hog(self, mib: int) -> None:
        threading.Thread(target=lambda: self.hog.append(bytearray(b"x") * (mib * MIB))).start()

    def do_count(self, name: str) -> None:
        self.context.count(name, 2.0, type="x")

    def do_worker(self, kind: str, request: str, timeout_s: float) -> int:
        return self.context.run_worker(kind, request.encode(), timeout_s=timeout_s)

    def do_spawn(self, *argv: str) -> None:
        self.context.tell_supervisor(SpawnEnvoy(generation=1, argv=tuple(argv), environment=dict(os.environ)))

    def do_start(self, role: str) -> None:
        self.context.tell_supervisor(StartActor(role=role))

    def do_udp(self) -> int:
        """Listen on a port of UDP, a predecessor's if there is one; return its number."""
        given = self.context.handed_down
        self.udp = socket.socket(fileno=given[0]) if given else socket.socket(type=socket.SOCK_DGRAM)
        if not given:
            self.udp.bind(("127.0.0.1", 0))
            self.context.hand_down([self.udp.fileno()])
        return int(self.udp.getsockname()[1])

    def do_datagram(self) -> str:
        self.udp.settimeout(5)
        return self.udp.recv(100).decode()

    def do_descriptors(self) -> list[str]:
        return sorted(filter(None, map(_link, Path("/proc/self/fd").iterdir())))

    def do_ignored(self) -> list[str]:
        names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        return [n.name for n in names if signal.getsignal(n) is signal.SIG_IGN]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def upper(request: bytes) -> bytes:
    return request.upper()


def fail(request: bytes) -> bytes:
    raise ValueError(f"cannot do {request.decode()}")


def sleep(request: bytes) -> bytes:
    time.sleep(60)
    return request


def die(request: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return request


def main() -> int:
    late_s = float(os.environ.get("LATE_S", "3"))
    specs = [
        ChildSpec(
            role=role,
            actor=Puppet,
            quit_s=2.0,
            private_limit_bytes=200 * MIB,
            heartbeat_late_s=late_s,
            ends_by_itself=role is Role.ENVOY,
        )
        for role in (
            Role.DNS,
            Role.SDS,
            Role.CERT,
            Role.DOWNSTREAM_XDS,
            Role.UPSTREAM_XDS,
            Role.HEALTH,
            Role.ENVOY,
        )
    ]
    supervisor = Supervisor(
        specs,
        settings=Settings([Where(sys.argv[1])]),
        workers={name: f"tests.runtime.tree_under_test:{name}" for name in ("upper", "fail", "sleep", "die")},
        envoy_after=frozenset({Role.SDS, Role.DOWNSTREAM_XDS}),
        left_out=frozenset({Role.DNS}),
    )
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
