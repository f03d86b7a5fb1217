"""UpstreamXdsActor: for each of Envoy's ADS streams one stream to istiod."""

import functools
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

from actors.ecds import EcdsConversions, PurgeDue
from actors.messages.cert import TrustBundle
from actors.messages.control import PeerRestarted
from actors.messages.dns import NameTableTaken, NameTableWanted
from actors.messages.health import WorkloadHealthy, WorkloadUnhealthy
from actors.messages.xds import (
    NameTable,
    ReplayWanted,
    ResumptionRefused,
    ShowStreams,
    StreamClosed,
    StreamId,
    StreamOpened,
    StreamsHeld,
    StreamsShown,
)
from actors.runtime.actor import RuntimeActor
from actors.runtime.context import Context, WorkerFinished
from actors.runtime.roles import Role
from pilot_agent.dns.checking import check
from pilot_agent.log import get_logger
from pilot_agent.wasm.last_good import Good
from pilot_agent.wire import WireError
from pilot_agent.xds import dialer, type_urls
from pilot_agent.xds.dialer import Dialer
from pilot_agent.xds.envelope import DeltaRequest, DeltaResponse, SotwRequest, SotwResponse
from pilot_agent.xds.internal_types import malformed
from pilot_agent.xds.istiod_stream import IstiodStream
from pilot_agent.xds.known_good.stores import Stores
from pilot_agent.xds.ledger import Ledger
from pilot_agent.xds.leg import Health
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.states import StreamShown

COMPACT_WORKER: Final = "compact-last-known-good"
_COMPACT_TIMEOUT_S: Final = 120.0
_FLUSH_S: Final = 1.0
_log = get_logger("xdsproxy")


def load() -> None:
    """Load what else stands in a successor's way to istiod."""
    dialer.load()


class UpstreamNotes(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives this actor: the verdict on the application, and who stands on an old configuration."""

    has_verdict: bool = False
    error: str | None = None  # None: healthy
    stale: frozenset[str] = frozenset()  # streams that were answered from the last known good, by label
    filters: dict[str, Good] = {}  # of Wasm, by name: the last whose modules could be had


class UpstreamXdsActor(RuntimeActor):
    """Keeps a stream to istiod open for each of Envoy's, leg after leg, and consumes NDS and PCDS.

    Messages of a stream never pass the mailbox, so that their order is that of the channel.

    Crash policy: the streams to istiod are lost. DownstreamXdsActor, which knows what Envoy has
    subscribed to, has a successor open them again; the application's health is in the notebook. Of the
    last known good configuration the newest updates may be missing on the disk.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options = context.settings(XdsOptions)
        self._health = Health()
        self._notes_lock = threading.Lock()
        self._notes = context.notebook.restore(UpstreamNotes) or UpstreamNotes()
        if self._notes.has_verdict:
            self._health.set(self._notes.error)
        self._compactions = Compactions(context)
        self._stores = self._make_stores()
        conversions = functools.partial(
            EcdsConversions,
            context,
            known=self._notes.filters,
            known_changed=lambda filters: self._note(filters=filters),
        )
        self._streams = streams = Streams(context, self._options, self._health, self._stores, conversions)
        # Here and not in on_start: channels are read as soon as the actor is made.
        context.on_channel(StreamOpened, streams.on_opened)
        context.on_channel(StreamClosed, streams.on_closed)
        context.on_channel(StreamsHeld, streams.on_held)
        context.on_channel(NameTableWanted, streams.on_name_table_wanted)
        context.on_channel(NameTableTaken, streams.name_tables.on_taken)

    def on_start(self) -> None:
        self._streams.conversions.start()
        address, cluster = self._options.upstream_address, self._options.cluster_id
        _log.info(f'Initializing with upstream address "{address}" and cluster "{cluster}"')
        self.context.ready()
        dialer.load()

    def on_message(self, message: object) -> object:
        match message:
            case WorkloadHealthy():
                self._note_health(None)
            case WorkloadUnhealthy():
                self._note_health(message.message)
            case PeerRestarted(role=Role.DOWNSTREAM_XDS):
                self._streams.drop(lambda stream: stream.incarnation < message.incarnation)
            case ShowStreams():
                told = msgspec.json.format(msgspec.json.encode(self._streams.shown()), indent=2)
                self.context.send(Role.HEALTH, StreamsShown(number=message.number, body=told + b"\n"))
            case PeerRestarted(role=Role.DNS):
                self._streams.name_tables.send_again()
            case PeerRestarted():
                pass
            case WorkerFinished(kind=kind) if kind == COMPACT_WORKER:
                self._compactions.finished(message, self._stores)
            case WorkerFinished():
                self._streams.conversions.finished(message)
            case PurgeDue():
                self._streams.conversions.purge()
            case _:
                _log.error(f"unknown message {type(message).__name__} skipped")
        return None

    def quit(self, deadline_s: float) -> None:
        self._streams.end_all(deadline_s)
        if self._stores is not None:
            self._stores.flush(min(deadline_s, _FLUSH_S))

    def _make_stores(self) -> Stores | None:
        options = self._options.last_known_good
        if options is None:
            return None
        return Stores(
            options,
            compact=self._compactions.start,
            gauge=self.context.gauge,
            count=self.context.count,
            stale=self._notes.stale,
            stale_changed=lambda names: self._note(stale=names),
        )

    def _note_health(self, error: str | None) -> None:
        self._health.set(error)
        self._note(has_verdict=True, error=error)
        self._streams.report_health()

    def _note(self, **changes: Any) -> None:  # Any: the fields of the notes
        with self._notes_lock:
            self._notes = msgspec.structs.replace(self._notes, **changes)
            self.context.notebook.save(self._notes)


class Compactions:
    """Has the last known good's files compacted by workers. Thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._running: dict[int, str] = {}  # worker_id → the store's key

    def start(self, key: str, request: bytes) -> None:
        with self._lock:
            number = self._context.run_worker(COMPACT_WORKER, request, timeout_s=_COMPACT_TIMEOUT_S)
            self._running[number] = key

    def finished(self, message: WorkerFinished, stores: Stores | None) -> None:
        with self._lock:
            key = self._running.pop(message.worker_id, None)
        if key is None or stores is None:
            return
        if message.result is None:
            _log.warn(f"last known good configuration not compacted: {message.error}")
        stores.compacted(key, message.result)


class Streams:
    """The streams to istiod, by Envoy's stream. Thread-safe."""

    def __init__(
        self,
        context: Context,
        options: XdsOptions,
        health: Health,
        stores: Stores | None,
        conversions: Callable[..., EcdsConversions],
    ) -> None:
        self._context, self._options, self._health, self._stores = context, options, health, stores
        self._dialer, self._ledger = Dialer(options), Ledger(context)
        self._lock = threading.Lock()
        self._wants_name_table = options.wants_name_table
        self.name_tables = NameTables(context)
        self.conversions = conversions(deliver=self._deliver, reject=self._reject)
        self._open: dict[StreamId, tuple[StreamOpened, IstiodStream, threading.Thread]] = {}

    def on_opened(self, _: Role, message: StreamOpened) -> None:
        with self._lock:
            known = self._open.get(message.stream)
            stream = known[1] if known else self._make(message)
            stream.open(message.leg, message.descriptors)
            if known is None:
                self._open[message.stream] = message, stream, self._start(stream)

    def on_closed(self, _: Role, message: StreamClosed) -> None:
        self.drop(lambda stream: stream == message.stream)

    def on_held(self, _: Role, message: StreamsHeld) -> None:
        self.drop(lambda stream: stream not in message.streams)
        if self._stores is not None:
            self._stores.hold(frozenset(stream.label for stream in message.streams))

    def shown(self) -> tuple[StreamShown, ...]:
        """Return what can be told of each stream."""
        with self._lock:
            known = list(self._open.values())
        return tuple(
            stream.states.shown(
                name=opened.stream.label, variant=opened.variant, generation=opened.generation
            )
            for opened, stream, _ in known
        )

    def on_name_table_wanted(self, sender: Role, message: NameTableWanted) -> None:
        del sender, message
        with self._lock:
            if self._wants_name_table:
                return
            self._wants_name_table = True
            for _, stream, _ in self._open.values():
                stream.consume(type_urls.NAME_TABLE)

    def drop(self, is_gone: Callable[[StreamId], bool]) -> None:
        """End the streams whose other end is gone."""
        with self._lock:
            for identity in [each for each in self._open if is_gone(each)]:
                self._open.pop(identity)[1].close()
                if self._stores is not None:
                    self._stores.stale(identity.label, is_stale=False)
        self.conversions.closed(is_gone)

    def report_health(self) -> None:
        """Tell istiod once, on the stream of the newest Envoy; every new leg tells it anyway."""
        with self._lock:
            if self._open:
                newest = max(self._open.values(), key=lambda each: (each[0].generation, each[0].stream))
                newest[1].report_health()

    def end_all(self, deadline_s: float) -> None:
        """End all streams and wait for their threads, `deadline_s` at most."""
        with self._lock:
            ending = list(self._open.values())
            self._open.clear()
        for _, stream, _ in ending:
            stream.close()
        for _, _, thread in ending:
            thread.join(deadline_s / len(ending))

    def _deliver(self, identity: StreamId, leg: int, make: Callable[[], bytes | None]) -> None:
        known = self._open.get(identity)
        if known is not None:
            known[1].deliver(leg, make)

    def _reject(self, identity: StreamId, leg: int, nonce: str, error: str) -> None:
        known = self._open.get(identity)
        if known is not None:
            known[1].reject_extensions(leg, nonce, error)

    def _make(self, opened: StreamOpened) -> IstiodStream:
        options = self._options
        wanted = {
            type_urls.NAME_TABLE: self._wants_name_table,
            type_urls.PROXY_CONFIG: options.wants_trust_bundle,
        }
        return IstiodStream(
            variant=opened.variant,
            name=opened.stream.label,
            address=options.upstream_address,
            dialer=self._dialer,
            port=_Port(self._context, opened, self.name_tables, self._ledger, self.conversions),
            health=self._health,
            consumes=tuple(type_url for type_url, is_wanted in wanted.items() if is_wanted),
            known_good=None
            if self._stores is None
            else self._stores.for_stream(
                variant=opened.variant, generation=opened.generation, name=opened.stream.label
            ),
        )

    def _start(self, stream: IstiodStream) -> threading.Thread:
        thread = threading.Thread(target=stream.run, name=f"istiod-{stream.name}", daemon=True)
        thread.start()
        return thread


class NameTables:
    """Hands name tables to DnsActor, and keeps the newest until it says that it has it. Thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._number = context.incarnation << 32
        self._untaken: NameTable | None = None

    def send(self, body: bytes) -> None:
        with self._lock:
            self._number += 1
            self._untaken = NameTable(body=body, number=self._number)
            self._context.send(Role.DNS, self._untaken)

    def send_again(self) -> None:
        """DnsActor lives again: what it did not take may have died with it."""
        with self._lock:
            if self._untaken is not None:
                self._context.send(Role.DNS, self._untaken)

    def on_taken(self, _: Role, message: NameTableTaken) -> None:
        with self._lock:
            if self._untaken is not None and self._untaken.number == message.number:
                self._untaken = None


class _Port:
    """Sends one stream's events to whom they concern."""

    def __init__(
        self,
        context: Context,
        opened: StreamOpened,
        name_tables: NameTables,
        ledger: Ledger,
        conversions: EcdsConversions,
    ) -> None:
        self._context, self._identity, self._name_tables = context, opened.stream, name_tables
        self._variant, self._ledger, self._conversions = opened.variant, ledger, conversions

    def seen_response(self, seen: SotwResponse | DeltaResponse) -> None:
        self._ledger.response(seen)

    def seen_request(self, seen: SotwRequest | DeltaRequest) -> None:
        self._ledger.request(seen)
        self._conversions.judged(self._identity, seen)

    def extension_configs(self, leg: int, seen: SotwResponse | DeltaResponse) -> bytes | None:
        return self._conversions.take(self._identity, self._variant, leg, seen)

    def replay(self, leg: int) -> None:
        self._context.send(Role.DOWNSTREAM_XDS, ReplayWanted(stream=self._identity, leg=leg))

    def refused(self, code: int, details: str) -> None:
        message = ResumptionRefused(stream=self._identity, code=code, details=details)
        self._context.send(Role.DOWNSTREAM_XDS, message)

    def name_table(self, body: bytes) -> None:
        try:
            check(body)
        except WireError as error:
            raise malformed(type_urls.NAME_TABLE, error) from error
        self._name_tables.send(body)

    def trust_bundle(self, ca_certificates_pem: tuple[str, ...]) -> None:
        self._context.send(Role.CERT, TrustBundle(ca_certificates_pem=ca_certificates_pem))

    def count(self, name: str, **labels: str) -> None:
        self._context.count(name, 1.0, **labels)
