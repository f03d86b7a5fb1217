"""Both halves of the xDS path in one process, joined by queues where the channels would be."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from actors.downstream_xds import DownstreamXdsActor
from actors.messages.control import PeerRestarted
from actors.runtime.roles import Role
from actors.upstream_xds import UpstreamXdsActor
from pilot_agent.grpc_bootstrap import GrpcBootstrapOptions
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.reflect_worker import reflect
from tests.support.context import FakeContext, MemoryNotebook
from tests.support.fake_istiod import EnvoyClient


class _Channel:
    """Delivers one direction's messages on a thread of its own; its reader may be exchanged."""

    def __init__(self, sender: Role) -> None:
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._sender, self._reader = sender, threading.Event()
        self._deliver: Callable[[Role, object], None] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        self._queue.put(message)

    def read_by(self, deliver: Callable[[Role, object], None] | None) -> None:
        """Let `deliver` be the reader; None: nobody reads, messages wait."""
        self._deliver = deliver
        if deliver is None:
            self._reader.clear()
        else:
            self._reader.set()

    def close(self) -> None:
        self._reader.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            self._reader.wait()
            if self._deliver is not None:
                self._deliver(self._sender, message)


class XdsPair:
    """Start, kill and restart each half; the notebook of the upstream half outlives it."""

    def __init__(self, options: XdsOptions) -> None:
        self.options = options
        self._channels = {role: _Channel(role) for role in (Role.DOWNSTREAM_XDS, Role.UPSTREAM_XDS)}
        self._incarnations = dict.fromkeys(self._channels, 0)
        self._notebook = MemoryNotebook()
        self._clients: list[EnvoyClient] = []
        self.others: queue.SimpleQueue[tuple[Role, object]] = queue.SimpleQueue()  # to CERT, DNS, …
        self.contexts: dict[Role, FakeContext] = {}
        self.refs: dict[Role, Any] = {}
        self.start(Role.UPSTREAM_XDS)
        self.start(Role.DOWNSTREAM_XDS)

    @property
    def upstream(self) -> FakeContext:
        return self.contexts[Role.UPSTREAM_XDS]

    @property
    def downstream(self) -> FakeContext:
        return self.contexts[Role.DOWNSTREAM_XDS]

    def start(self, role: Role) -> None:
        self._incarnations[role] += 1
        actor = DownstreamXdsActor if role is Role.DOWNSTREAM_XDS else UpstreamXdsActor
        context = FakeContext(
            role=role,
            incarnation=self._incarnations[role],
            options=(
                self.options,
                WasmOptions(directory=str(Path(self.options.socket_path).parent)),
                GrpcBootstrapOptions(),
            ),
            workers={"reflect": reflect},
            notebook=self._notebook if role is Role.UPSTREAM_XDS else MemoryNotebook(),
        )
        context.on_send = lambda to, message: self._carry(context, to, message)
        started = threading.Event()
        context.deliver = lambda message: (started.wait(5), self.refs[role].tell(message))
        self.contexts[role] = context
        self.refs[role] = actor.start(context)
        started.set()
        self._channels[self._peer(role)].read_by(context.receive)

    def kill(self, role: Role) -> None:
        """Let one half vanish as SIGKILL would, but for its sockets, which close as its process's would."""
        context = self.contexts[role]
        self._channels[self._peer(role)].read_by(None)
        context.on_send = None
        self.refs[role].proxy().quit(5.0).get()
        self.refs[role].stop()

    def restart(self, role: Role) -> None:
        self.kill(role)
        self.start(role)
        self.tell_restarted(role)

    def tell_restarted(self, role: Role) -> None:
        """Say to the other half what the supervisor says after a restart."""
        self.contexts[self._peer(role)].tell_self(
            PeerRestarted(role=role, incarnation=self._incarnations[role])
        )

    def envoy(
        self, variant: str = "delta", generation: int | None = None, *, beside: EnvoyClient | None = None
    ) -> EnvoyClient:
        client = EnvoyClient(f"unix:{self.options.socket_path}", variant, generation, beside=beside)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in reversed(self._clients):  # who is beside another goes before it
            client.close()
        for role in (Role.DOWNSTREAM_XDS, Role.UPSTREAM_XDS):
            self.refs[role].proxy().quit(5.0).get()
            self.refs[role].stop()
        for channel in self._channels.values():
            channel.close()

    def _carry(self, context: FakeContext, to: Role, message: object) -> None:
        if to in self._channels:
            self._channels[context.role].put(message)
        else:
            self.others.put((to, message))

    @staticmethod
    def _peer(role: Role) -> Role:
        return Role.UPSTREAM_XDS if role is Role.DOWNSTREAM_XDS else Role.DOWNSTREAM_XDS


def plaintext_options(folder: Path, address: str, **changes: Any) -> XdsOptions:
    """Return options for a fake istiod without TLS, with a token file."""
    token = folder / "istio-token"
    token.write_text("good-token\n")
    options = XdsOptions(
        socket_path=str(folder / "XDS"),
        upstream_address=address,
        cluster_id="Kubernetes",
        token_path=str(token),
        is_plaintext=True,
    )
    return replace(options, **changes)
