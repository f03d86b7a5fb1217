"""EnvoyActor with real Envoys: a context with real timers, and a supervisor that is their parent."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import pykka
from msgspec.structs import replace

from actors.envoy import EnvoyActor
from actors.messages.control import (
    EndAgent,
    EnvoyEndNoted,
    EnvoyExited,
    EnvoyInventory,
    EnvoyProcess,
    EnvoySpawned,
    EnvoySpawnFailed,
    SignalEnvoy,
    SpawnEnvoy,
)
from actors.runtime.roles import Role
from actors.runtime.timers import Timers
from pilot_agent.bootstrap import BootstrapOptions
from pilot_agent.bootstrap.platform import UNKNOWN
from pilot_agent.environment import Environment
from pilot_agent.envoy import EnvoyOptions
from pilot_agent.envoy.launch import FirstPrepared
from pilot_agent.proxyconfig import Loaded, Node, ProxyConfig, ProxyFlags
from tests.support.context import FakeContext, MemoryNotebook
from tests.support.real_envoy import envoy_path, free_ports
from tests.support.waiting import wait_for

M = TypeVar("M")


@dataclass
class RigContext(FakeContext):
    """A FakeContext whose timers are real, and whose supervisor answers."""

    supervisor: "Supervisor | None" = None
    clock: Any = None  # Timers; made with the first timer

    def after(self, delay_s: float, message: object) -> Any:
        self.clock = self.clock or Timers(self._due)
        return self.clock.after(delay_s, message)

    def _due(self, message: object) -> None:
        self.tell_self(message)

    def tell_self(self, message: object) -> None:
        with contextlib.suppress(pykka.ActorDeadError):  # a killed incarnation hears nothing more
            super().tell_self(message)

    def tell_supervisor(self, message: object) -> None:
        super().tell_supervisor(message)
        assert self.supervisor is not None
        self.supervisor.inbox.put(message)


class Supervisor(threading.Thread):
    """Owns the Envoys, as the product's does, on one thread, since an Envoy ends with its spawner's."""

    def __init__(self, deliver: Callable[[object], None], log: Path) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.inbox: queue.Queue[object] = queue.Queue()
        self.alive: dict[int, EnvoyProcess] = {}
        self.ended: dict[int, EnvoyExited] = {}
        self.spawned: list[SpawnEnvoy] = []
        self.ending: EndAgent | None = None
        self.holds_spawns = threading.Event()
        self._held: list[SpawnEnvoy] = []
        self._deliver, self._log = deliver, log

    def run(self) -> None:
        while (message := self.inbox.get()) is not None:
            match message:
                case SpawnEnvoy() if self.holds_spawns.is_set():
                    self._held.append(message)
                case SpawnEnvoy():
                    self._spawn(message)
                case SignalEnvoy():
                    if self.alive.get(message.process.pid) == message.process:
                        os.kill(message.process.pid, message.signal)
                case EnvoyExited():
                    self.alive.pop(message.process.pid)
                    self.ended[message.process.generation] = message
                    self._deliver(message)
                case EnvoyEndNoted():
                    self.ended.pop(message.generation, None)
                case EndAgent():
                    self.ending = message
                case "release":
                    self.holds_spawns.clear()
                    for held in self._held:
                        self._spawn(held)

    def inventory(self) -> EnvoyInventory:
        return EnvoyInventory(alive=tuple(self.alive.values()), ended=tuple(self.ended.values()))

    def end(self) -> None:
        for pid in list(self.alive):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.alive, what="the end of every Envoy")
        self.inbox.put(None)
        self.join(10)

    def _spawn(self, wish: SpawnEnvoy) -> None:
        self.spawned.append(wish)
        try:
            with self._log.open("ab") as log:
                child = subprocess.Popen(wish.argv, env=wish.environment, stdout=log, stderr=log)
        except OSError as error:
            reason = f"fork/exec {wish.argv[0]}: {os.strerror(error.errno or 0).lower()}"
            self._deliver(EnvoySpawnFailed(generation=wish.generation, reason=reason))
            return
        process = EnvoyProcess(
            generation=wish.generation,
            pid=child.pid,
            create_time=psutil.Process(child.pid).create_time(),
        )
        self.alive[child.pid] = process
        self._deliver(EnvoySpawned(process=process))
        threading.Thread(target=self._reap, args=(child, process), daemon=True).start()

    def _reap(self, child: subprocess.Popen[bytes], process: EnvoyProcess) -> None:
        code = child.wait()
        status = -code if code < 0 else code << 8
        self.inbox.put(EnvoyExited(process=process, status=status))


@dataclass
class EnvoyRig:
    """One agent's worth of Envoy, in `directory`, with a static configuration that needs no xDS."""

    directory: Path
    ports: list[int] = field(default_factory=lambda: free_ports(3))
    settings: dict[str, Any] = field(default_factory=dict)  # of EnvoyOptions, instead of the usual ones
    variables: dict[str, str] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)  # generations whose bootstrap Envoy refuses
    clashing: set[int] = field(default_factory=set)  # generations that pass validation and fail to start
    incarnation: int = 0
    actor: Any = None  # pykka.ActorRef
    context: RigContext = field(init=False)
    notebook: MemoryNotebook = field(default_factory=MemoryNotebook)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(self._deliver, self.directory / "envoy.log")
        self.supervisor.start()
        self.taken = socket.create_server(("127.0.0.1", self.ports[2]))
        config = ProxyConfig(
            binary_path=str(self.settings.pop("binary_path", None) or envoy_path()),
            drain_duration_s=1.0,
            termination_drain_duration_s=0.3,
            proxy_admin_port=self.ports[0],
            concurrency=1,
        )
        node = Node(role="sidecar", ip_addresses=("127.0.0.1",), id="pod.ns", domain="d")
        environment = Environment(os.environ | self.variables)
        loaded = Loaded(proxy_config=config, node=node, labels=None, annotations=None, flags=ProxyFlags())
        self.options = replace(
            EnvoyOptions.build(environment, config, node),
            **({"parent_shutdown_s": 2} | self.settings),
        )
        self.bootstrap = BootstrapOptions.build(
            environment, loaded, platform=UNKNOWN, credential_socket=False
        )

    @property
    def admin_port(self) -> int:
        return self.ports[0]

    @property
    def spawned(self) -> set[int]:
        """Return the generations of all Envoys so far."""
        return {each.generation for each in self.supervisor.spawned}

    @property
    def port(self) -> int:
        """Where the Envoys answer `ok`."""
        return self.ports[1]

    def render(self, _: object, *, generation: int | None = None, admin_port: int | None = None) -> bytes:
        """Stands in for the real bootstrap, which needs istiod to become LIVE."""
        number = generation or 0
        listeners = [_listener("app", self.port)]
        if number in self.clashing:
            listeners.append(_listener("clash", self.ports[2]) | {"enable_reuse_port": False})
        document: dict[str, Any] = {
            "admin": {"address": _address(admin_port or self.admin_port)},
            "static_resources": {"listeners": listeners},
        }
        if number in self.broken:
            document["static_resources"]["clusters"] = [{"name": "no EDS configuration", "type": "EDS"}]
        return json.dumps(document).encode()

    def start(self) -> "EnvoyRig":
        """Start EnvoyActor, or start it again after `kill_actor`."""
        self.incarnation += 1
        self.context = RigContext(
            role=Role.ENVOY,
            incarnation=self.incarnation,
            notebook=self.notebook,
            options=(self.options, self.bootstrap, FirstPrepared()),
            supervisor=self.supervisor,
        )
        self.actor = EnvoyActor.start(self.context)
        self.context.deliver = self.actor.tell
        self.actor.tell(self.supervisor.inventory())
        return self

    def kill_actor(self) -> None:
        """Let the actor be gone; its threads' results go nowhere, like those of a killed process."""
        self.actor.stop()
        self.context.deliver = lambda _: None

    def say(self, message: object) -> "EnvoyRig":
        self.actor.tell(message)
        return self

    def heard(self, kind: type[M]) -> list[M]:
        """Return what HealthActor was told."""
        return [each for role, each in self.context.sent if role == Role.HEALTH and isinstance(each, kind)]

    def await_heard(self, wanted: object, *, within_s: float = 20.0) -> None:
        wait_for(
            lambda: any(each == wanted for _, each in self.context.sent),
            within_s=within_s,
            what=f"{wanted} (heard so far: {self.context.sent}, Envoy said: {self.envoy_log()[-2000:]})",
        )

    def await_end(self) -> EndAgent:
        return wait_for(lambda: self.supervisor.ending, what="EndAgent")

    def argv(self, generation: int) -> tuple[str, ...]:
        return next(each.argv for each in self.supervisor.spawned if each.generation == generation)

    def base_id(self, generation: int) -> int:
        argv = self.argv(generation)
        return int(argv[argv.index("--base-id") + 1])

    def base_ids(self) -> set[int]:
        """Return those of all Envoys that were spawned."""
        with_one = [each.generation for each in self.supervisor.spawned if "--base-id" in each.argv]
        return {self.base_id(generation) for generation in with_one}

    def pid(self, generation: int) -> int:
        return next(each.pid for each in self.supervisor.alive.values() if each.generation == generation)

    def envoy_log(self) -> str:
        log = self.directory / "envoy.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def files(self) -> list[str]:
        """Return the names in the configuration directory."""
        return sorted(each.name for each in Path(self.options.config_path).iterdir())

    def end(self) -> None:
        if self.actor is not None:
            self.kill_actor()
        self.supervisor.end()
        self.taken.close()

    def _deliver(self, message: object) -> None:
        with contextlib.suppress(pykka.ActorDeadError):
            self.actor.tell(message)


class Load:
    """Requests one after another, each over a connection of its own; `failures` has what went wrong."""

    def __init__(self, port: int) -> None:
        self._port, self._ended = port, threading.Event()
        self.answers, self.failures = 0, list[str]()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=5) as client:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
                    answer = b""
                    while not answer.endswith(b"\r\n\r\nok") and (part := client.recv(4096)):
                        answer += part
            except OSError as error:
                self.failures.append(repr(error))
                continue
            if answer.startswith(b"HTTP/1.1 200"):
                self.answers += 1
            else:
                self.failures.append(repr(answer[:80]))
            self._ended.wait(0.005)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(name: str, port: int) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions.filters"
    reply = {"status": 200, "body": {"inline_string": "ok"}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": reply}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": _address(port), "filter_chains": [chain], "traffic_direction": "INBOUND"}
