"""DnsActor: names of the mesh from istiod's table, all others from the pod's name servers."""

import resource
import socket
import threading
from typing import Final

import msgspec

from actors.messages.control import PeerRestarted
from actors.messages.dns import NameTableAsked, NameTableShown, NameTableTaken, NameTableWanted
from actors.messages.health import NameTableReceived
from actors.messages.xds import NameTable as NameTableMessage
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context, WorkerFinished
from actors.runtime.roles import Role
from pilot_agent.dns.index import build
from pilot_agent.dns.listening import adopt, bind
from pilot_agent.dns.options import DnsError, DnsOptions, Surroundings
from pilot_agent.dns.server import DnsServer
from pilot_agent.dns.table import NameTable
from pilot_agent.dns.upstream import UpstreamSettings
from pilot_agent.dns.workers import TableRequest, read_index
from pilot_agent.log import get_logger
from pilot_agent.wire import WireError

_IN_PLACE_BYTES: Final = 32 << 10
"""Up to here the index takes 10 ms at most; larger ones are made in a worker, beside the queries."""

_INDEX_WITHIN_S: Final = 60.0
_PAGE_WITHIN_S: Final = 10.0
_AGAIN_AFTER_S: Final = 1.0
_DESCRIPTORS: Final = 8192
_SOCKETS_MOST: Final = 2048

_log = get_logger("dns")


class DnsNotes(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives DnsActor."""

    surroundings: Surroundings
    table: bytes | None = None
    index: bytes = b""


class _BindAgain(msgspec.Struct, frozen=True):
    """Timer → actor: the address was taken; try it once more."""


class _IndexAgain(msgspec.Struct, frozen=True):
    """Timer → actor: the worker failed, and not because of the table."""


class DnsActor(RuntimeActor):
    """Serves the DNS port; takes name tables, each of them whole.

    Crash policy: the table with its index is in the notebook, the bound sockets are with the supervisor,
    so queries wait in the kernel's queue for the successor. Those that were being forwarded are lost,
    as datagrams are: clients ask again. A table on its way here is sent again by UpstreamXdsActor.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options = context.settings(DnsOptions)
        self._notes: DnsNotes | None = context.notebook.restore(DnsNotes)
        self._server: DnsServer | None = None
        self._thread: threading.Thread | None = None
        self._said_received = False
        self._newest: NameTableMessage | None = None  # waits to be indexed, or is being indexed
        self._building: tuple[int, NameTableMessage] | None = None  # worker's id
        self._pages: dict[int, int] = {}  # worker's id → number of the question

    def on_start(self) -> None:
        self._serve()
        self.context.send(Role.UPSTREAM_XDS, NameTableWanted())

    def on_message(self, message: object) -> None:
        match message:
            case NameTableMessage():
                self._newest = message
                self._index_next()
            case WorkerFinished(kind="dns-index"):
                self._indexed(message)
            case WorkerFinished(kind="dns-page"):
                self._show(self._pages.pop(message.worker_id), message.result or b"")
            case NameTableAsked():
                self._asked(message)
            case PeerRestarted():
                self._peer_restarted(message)
            case _BindAgain():
                self._serve()
            case _IndexAgain():
                self._index_next()
            case _:
                _log.error(f"unknown message {type(message).__name__} skipped")

    def quit(self, deadline_s: float) -> None:
        if self._server is not None and self._thread is not None:
            self._server.close()
            self._thread.join(deadline_s)

    # Serving

    def _serve(self) -> None:
        """Begin to serve; what is wrong at the agent's start ends it, later it is tried again."""
        try:
            if self._notes is None:
                self._notes = DnsNotes(surroundings=self._options.surroundings())
            sockets = adopt(self.context.handed_down) or bind(self._notes.surroundings.listen)
        except DnsError as error:
            if self._options.enabled and self.context.incarnation == 1:
                self.context.fatal(str(error))
                return
            _log.error(f"{error}; tried again every {_AGAIN_AFTER_S:g} s")
            self.context.after(_AGAIN_AFTER_S, _BindAgain())
            return
        self.context.hand_down(sock.fileno() for sock in sockets)
        self.context.notebook.save(self._notes)
        self._server = DnsServer(
            sockets,
            self._upstream(self._notes.surroundings),
            self.context,
            before_sync=self._options.before_sync,
        )
        self._use_kept(self._notes)
        self._thread = threading.Thread(target=self._run, args=(sockets,), name="dns", daemon=True)
        self._thread.start()
        if self.context.incarnation == 1:
            _log.info(f"Starting local udp and tcp DNS server on {_listed(self._notes.surroundings)}")
        self.context.ready()

    def _upstream(self, surroundings: Surroundings) -> UpstreamSettings:
        return UpstreamSettings(
            name_servers=surroundings.name_servers,
            parallel=self._options.parallel,
            timeout_s=self._options.timeout_s,
            sockets_limit=min(_SOCKETS_MOST, more_descriptors() // 2),
        )

    def _run(self, sockets: list[socket.socket]) -> None:
        assert self._server is not None
        mark = self.context.mark("turn of the DNS proxy's loop")

        def turn_began() -> None:
            mark.end()
            mark.begin()

        self._server.run(turn_began)
        for sock in sockets:
            sock.close()

    # The table

    def _index_next(self) -> None:
        """Make the index of the newest table, unless another one is being made: then afterwards."""
        if self._newest is None or self._building is not None or self._notes is None:
            return
        table, self._newest = self._newest, None
        if table.body == self._notes.table:
            self._taken(table)
            return
        naming = self._notes.surroundings.naming
        if len(table.body) <= _IN_PLACE_BYTES:
            try:
                self._replace(table, build(table.body, naming))
            except WireError as error:
                self._reject(table, error)
            return
        request = msgspec.msgpack.encode(TableRequest(table=table.body, naming=naming))
        self._building = self.context.run_worker("dns-index", request, timeout_s=_INDEX_WITHIN_S), table

    def _indexed(self, finished: WorkerFinished) -> None:
        assert self._building is not None
        _, table = self._building
        self._building = None
        if finished.result is None:
            _log.error(f"name table cannot be indexed: {finished.error}; tried again")
            self._newest = self._newest or table
            self.context.after(_AGAIN_AFTER_S, _IndexAgain())
            return
        try:
            self._replace(table, read_index(finished.result))
        except WireError as error:
            self._reject(table, error)
        self._index_next()

    def _replace(self, table: NameTableMessage, index: bytes) -> None:
        assert self._notes is not None
        self._notes = DnsNotes(surroundings=self._notes.surroundings, table=table.body, index=index)
        self._use(table.body, index)
        self.context.notebook.save(self._notes)
        self._taken(table)

    def _reject(self, table: NameTableMessage, error: WireError) -> None:
        _log.error(f"name table rejected, the last good one stays: {error}")
        self._taken(table)

    def _taken(self, table: NameTableMessage) -> None:
        self.context.send(Role.UPSTREAM_XDS, NameTableTaken(number=table.number))

    def _use_kept(self, notes: DnsNotes) -> None:
        """Serve the notebook's table; after an upgrade in place its index is of no use, and made anew."""
        if notes.table is None:
            return
        try:
            self._use(notes.table, notes.index)
        except ValueError as error:
            _log.info(f"name table of the notebook: {error}: made anew")
            self._notes = msgspec.structs.replace(notes, table=None, index=b"")
            self._newest = self._newest or NameTableMessage(body=notes.table)
            self._index_next()

    def _use(self, table: bytes, index: bytes) -> None:
        """Answer from this table; a query sees either the old one or the new one.

        Raises:
            ValueError: the index does not belong to the table, or was made by another family of processes.
        """
        if self._server is None or self._notes is None:
            return
        names = NameTable(table, index, self._notes.surroundings.naming)
        self._server.table = names
        _log.debug(f"updated lookup table with {names.names} hosts")
        if not self._said_received:
            self._said_received = True
            self.context.send(Role.HEALTH, NameTableReceived())

    # Neighbours

    def _peer_restarted(self, message: PeerRestarted) -> None:
        if message.role == Role.UPSTREAM_XDS:
            self.context.send(Role.UPSTREAM_XDS, NameTableWanted())
        elif message.role == Role.HEALTH and self._said_received:
            self.context.send(Role.HEALTH, NameTableReceived())

    def _asked(self, message: NameTableAsked) -> None:
        if self._notes is None or self._notes.table is None:
            self._show(message.number, b"")
            return
        asked = TableRequest(table=self._notes.table, naming=self._notes.surroundings.naming)
        request = msgspec.msgpack.encode(asked)
        worker = self.context.run_worker("dns-page", request, timeout_s=_PAGE_WITHIN_S)
        self._pages[worker] = message.number

    def _show(self, number: int, body: bytes) -> None:
        self.context.send(Role.HEALTH, NameTableShown(number=number, body=body))


def more_descriptors() -> int:
    """Raise the soft limit of descriptors, each forwarded query needs one; return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, min(hard, _DESCRIPTORS) if hard != resource.RLIM_INFINITY else _DESCRIPTORS)
    if wanted != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _listed(surroundings: Surroundings) -> str:
    return ", ".join(f"{host}:{port}" for host, port in surroundings.listen)
