"""SdsActor: hands the workload's secrets to Envoy over SDS. Makes none itself; CertActor does."""

import os
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from actors.messages.cert import GetSecret, SecretFailed, SecretReady
from actors.messages.control import LeaveEstate, PeerRestarted, WorkerExited
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context
from actors.runtime.roles import Role
from pilot_agent.log import get_logger
from pilot_agent.security.material import Material
from pilot_agent.security.options import SecurityOptions
from pilot_agent.security.resource_names import is_roots, material_name
from pilot_agent.security.sds_server import SdsServer
from pilot_agent.security.sds_session import Serving
from pilot_agent.security.sds_wire import encode_pair, encode_roots
from pilot_agent.security.secret_store import SecretStore
from pilot_agent.sockets import SocketError

FORMAT: Final = 1
BIND_WAITS_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Waits before the attempts after the first, as in the reference; the last is followed by LAST_WAIT_S."""

LAST_WAIT_S: Final = 16.0
"""After it a warning, and on it goes: the reference gives up for ever here."""

GRACE_S: Final = 0.5

_log = get_logger("sds")
_default_log = get_logger()


class SdsState(msgspec.Struct, frozen=True, kw_only=True):
    """The notebook's state: what was served last."""

    format: int = FORMAT
    materials: tuple[Material, ...] = ()


class _Bind(msgspec.Struct, frozen=True, kw_only=True):
    """To myself: try to listen; `failures` attempts have failed before."""

    failures: int


class SdsActor(RuntimeActor):
    """Answers Envoy from what CertActor announced, asks it for what is missing, pushes what is new.

    Crash policy: the secrets served last and their versions are in the notebook; after a restart Envoy
    is answered at once with the same versions, and nobody is asked. Streams are Envoy's to open again; the
    listening socket goes on to the successor, so it is not refused meanwhile. A planned successor goes on
    with its connections and streams.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options = context.settings(SecurityOptions)
        self._store = SecretStore(self._ask)
        self._server: SdsServer | None = None

    def on_start(self) -> None:
        """Take the notebook's secrets over and listen."""
        if self.context.incarnation == 1:
            _default_log.info("Starting default Istio SDS Server")
        kept = self.context.notebook.restore(SdsState)
        if kept is not None and kept.format == FORMAT:
            for material in kept.materials:
                self._store.put(material)
        self._bind(0)
        self.context.ready()

    def on_message(self, message: object) -> None:
        match message:
            case SecretReady():
                self._secret_ready(message)
            case SecretFailed(resource_name=name, reason=reason):
                self._store.fail(name, reason)
            case PeerRestarted(role=Role.CERT):
                self._store.ask_anew()
            case _Bind(failures=failures):
                self._bind(failures)
            case LeaveEstate(patience_s=patience_s):
                server = self._server
                self.context.leave_estate(*(server.keep(patience_s) if server is not None else (b"", [])))
            case PeerRestarted() | WorkerExited():
                pass
            case _:
                _log.warn(f"unexpected message {type(message).__name__}")

    def quit(self, deadline_s: float) -> None:
        """End the streams and take the socket away."""
        if self._server is not None:
            self._server.quit(min(GRACE_S, deadline_s / 2))

    def _secret_ready(self, message: SecretReady) -> None:
        fields = msgspec.structs.asdict(message)
        fields["name"] = fields.pop("resource_name")
        material = Material(**fields)
        if not self._store.put(material):
            return
        _log.debug(f"Trigger on secret update, resource name: {material.name}")
        self.context.notebook.save(SdsState(materials=self._store.all()))
        if self._server is not None:
            self._server.push(material.name)

    def _ask(self, name: str) -> None:
        self.context.send(Role.CERT, GetSecret(resource_name=name))

    def _bind(self, failures: int) -> None:
        path = os.path.normpath(self._options.socket_path)
        server = SdsServer(
            Serving(
                store=self._store,
                encode=self._encode,
                material_name=partial(material_name, has_os_roots=bool(self._options.os_bundle_path)),
                count=self.context.count,
            ),
            hand_down=self.context.hand_down,
        )
        _log.info("Starting SDS grpc server")
        _log.info(f'Starting SDS server for workload certificates, will listen on "{path}"')
        try:
            inherited = () if failures else self.context.handed_down
            left = self.context.estate if inherited else (b"", ())
            self.context.hand_down(server.serve(path, inherited, left))
        except SocketError as error:
            self._bind_failed(failures, str(error))
            return
        self._server = server

    def _bind_failed(self, failures: int, reason: str) -> None:
        last = failures >= len(BIND_WAITS_S)
        delay_s = LAST_WAIT_S if last else BIND_WAITS_S[failures]
        if last:
            _log.warn(f"SDS grpc server could not be started: {reason}")
        else:
            _log.debug(f"SDS grpc server not started yet: {reason}")
        self.context.after(delay_s, _Bind(failures=failures + 1))

    def _encode(self, name: str, material: Material) -> bytes:
        """Return the Envoy Secret for `material` under the resource name asked for."""
        if is_roots(material.name):
            return encode_roots(name, roots_pem=material.trusted_ca_pem, crl_path=self._crl_path())
        return encode_pair(
            name,
            chain_pem=material.certificate_chain_pem,
            key_pem=material.private_key_pem,
            provider=self._options.private_key_provider,
        )

    def _crl_path(self) -> str:
        path = self._options.crl_path
        if path and Path(path).is_file():
            return path
        _log.debug(f"CRL is not configured, {path} does not exist")
        return ""
