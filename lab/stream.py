"""The protocol of one ADS stream, both variants, as pure state: requests and pushes in, responses out.

One push of a type is in flight at a time, as with istiod: what changes meanwhile is sent after the ACK or
NACK. A changed subscription is answered at once. Nothing here knows gRPC, threads or time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from lab.snapshot import ANSWERED_WHEN_EMPTY, PUSH_ORDER, WILDCARD, Resource, Snapshot

Verdict = Literal["subscribe", "ack", "nack", "stale"]
Request: TypeAlias = discovery_pb2.DiscoveryRequest | discovery_pb2.DeltaDiscoveryRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One response: its bytes and, for the records, what they say."""

    type_url: str
    nonce: str
    version_info: str
    names: tuple[str, ...]
    data: bytes = field(repr=False)


class Stream(Protocol):
    """What the server needs of either variant."""

    def receive(
        self, request: Request, snapshot: Snapshot, version: str
    ) -> tuple[Verdict, list[Outgoing]]: ...

    def push(self, snapshot: Snapshot, version: str) -> list[Outgoing]: ...


@dataclass(slots=True)
class _Watch:
    """A subscription to one type. `sent` maps the names that the client holds to their versions."""

    wildcard: bool = False
    names: frozenset[str] = frozenset()
    nonce: str = ""
    sent: dict[str, str] = field(default_factory=dict)
    in_flight: bool = False
    push_due: bool = False

    def wanted(self, offered: Mapping[str, Resource]) -> list[Resource]:
        return [one for name, one in offered.items() if self.wildcard or name in self.names]

    def settle(self, response_nonce: str) -> bool:
        """Note an ACK or NACK; False if its nonce is not the last one sent."""
        if response_nonce != self.nonce:
            return False
        self.in_flight = False
        return True


class _Base:
    def __init__(self, make_nonce: Callable[[str], str]) -> None:
        self._make_nonce = make_nonce
        self._watches: dict[str, _Watch] = {}

    def _in_push_order(self) -> list[tuple[str, _Watch]]:
        order = {type_url: at for at, type_url in enumerate(PUSH_ORDER)}
        return sorted(self._watches.items(), key=lambda item: order.get(item[0], len(order)))


class SotwStream(_Base):
    """State of the world: each response carries everything the client asked for of that type."""

    def receive(self, request: Request, snapshot: Snapshot, version: str) -> tuple[Verdict, list[Outgoing]]:
        assert isinstance(request, discovery_pb2.DiscoveryRequest)
        watch, names = self._watches.get(request.type_url), frozenset(request.resource_names)
        if not names and request.type_url not in WILDCARD:
            return self._unsubscribe(request, watch), []
        if watch is None or not request.response_nonce:
            return "subscribe", self._subscribe(request.type_url, names, snapshot, version)
        if not watch.settle(request.response_nonce):
            return "stale", []
        verdict: Verdict = "nack" if request.HasField("error_detail") else "ack"
        if verdict == "ack" and names != watch.names and not watch.wildcard:
            watch.names = names
            return verdict, self._answer(request.type_url, watch, snapshot, version)
        return verdict, self._push_due(request.type_url, watch, snapshot, version)

    def push(self, snapshot: Snapshot, version: str) -> list[Outgoing]:
        outgoing: list[Outgoing] = []
        for type_url, watch in self._in_push_order():
            if watch.in_flight:
                watch.push_due = True
            elif self._changed(type_url, watch, snapshot):
                outgoing += self._answer(type_url, watch, snapshot, version)
        return outgoing

    def _subscribe(
        self, type_url: str, names: frozenset[str], snapshot: Snapshot, version: str
    ) -> list[Outgoing]:
        wildcard = type_url in WILDCARD and (not names or "*" in names)
        watch = self._watches[type_url] = _Watch(wildcard=wildcard, names=names)
        if type_url in snapshot.verbatim:
            return [_verbatim(snapshot, type_url, watch, discovery_pb2.DiscoveryResponse())]
        return self._answer(type_url, watch, snapshot, version)

    def _unsubscribe(self, request: discovery_pb2.DiscoveryRequest, watch: _Watch | None) -> Verdict:
        """Forget the type, as istiod does whatever the nonce: the next names are a first request again."""
        self._watches.pop(request.type_url, None)
        if watch is None or not request.response_nonce:
            return "subscribe"
        if not watch.settle(request.response_nonce):
            return "stale"
        return "nack" if request.HasField("error_detail") else "ack"

    def _push_due(self, type_url: str, watch: _Watch, snapshot: Snapshot, version: str) -> list[Outgoing]:
        if not watch.push_due or not self._changed(type_url, watch, snapshot):
            watch.push_due = False
            return []
        return self._answer(type_url, watch, snapshot, version)

    def _changed(self, type_url: str, watch: _Watch, snapshot: Snapshot) -> bool:
        now = {one.name: one.version for one in watch.wanted(snapshot.of_type(type_url))}
        return now != watch.sent

    def _answer(self, type_url: str, watch: _Watch, snapshot: Snapshot, version: str) -> list[Outgoing]:
        resources = watch.wanted(snapshot.of_type(type_url))
        if not resources and not watch.sent and type_url not in ANSWERED_WHEN_EMPTY:
            return []
        watch.sent = {one.name: one.version for one in resources}
        watch.nonce, watch.in_flight, watch.push_due = self._make_nonce(version), True, False
        message = discovery_pb2.DiscoveryResponse(
            type_url=type_url,
            version_info=version,
            nonce=watch.nonce,
            resources=[AnyMessage(type_url=one.type_url, value=one.value) for one in resources],
        )
        return [_outgoing(type_url, watch, version, tuple(watch.sent), message.SerializeToString())]


class DeltaStream(_Base):
    """Incremental: each response carries what changed against what the client is known to hold."""

    def receive(self, request: Request, snapshot: Snapshot, version: str) -> tuple[Verdict, list[Outgoing]]:
        assert isinstance(request, discovery_pb2.DeltaDiscoveryRequest)
        watch = self._watches.get(request.type_url)
        if watch is None:
            return "subscribe", self._first(request, snapshot, version)
        verdict = self._verdict(request, watch)
        missing = self._apply(request, watch, snapshot)
        changed = bool(request.resource_names_subscribe or request.resource_names_unsubscribe)
        if not changed and (verdict == "stale" or not watch.push_due):
            return verdict, []
        return verdict, self._answer(request.type_url, watch, snapshot, version, missing)

    def push(self, snapshot: Snapshot, version: str) -> list[Outgoing]:
        outgoing: list[Outgoing] = []
        for type_url, watch in self._in_push_order():
            if watch.in_flight:
                watch.push_due = True
            else:
                outgoing += self._answer(type_url, watch, snapshot, version, set())
        return outgoing

    def _first(
        self, request: discovery_pb2.DeltaDiscoveryRequest, snapshot: Snapshot, version: str
    ) -> list[Outgoing]:
        type_url, names = request.type_url, frozenset(request.resource_names_subscribe) - {"*"}
        everything = "*" in request.resource_names_subscribe or not names
        watch = self._watches[type_url] = _Watch(
            wildcard=type_url in WILDCARD and everything,
            names=names,
            sent=dict(request.initial_resource_versions),
        )
        if type_url in snapshot.verbatim:
            return [_verbatim(snapshot, type_url, watch, discovery_pb2.DeltaDiscoveryResponse())]
        missing = set(names - set(snapshot.of_type(type_url)))
        even_empty = type_url in ANSWERED_WHEN_EMPTY
        return self._answer(type_url, watch, snapshot, version, missing, even_empty=even_empty)

    def _verdict(self, request: discovery_pb2.DeltaDiscoveryRequest, watch: _Watch) -> Verdict:
        if not request.response_nonce:
            return "subscribe"
        if not watch.settle(request.response_nonce):
            return "stale"
        return "nack" if request.HasField("error_detail") else "ack"

    def _apply(
        self, request: discovery_pb2.DeltaDiscoveryRequest, watch: _Watch, snapshot: Snapshot
    ) -> set[str]:
        """Change the subscription; return the names newly asked for that do not exist.

        A name that is subscribed to again is sent again, even if its version is known.
        """
        added, dropped = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        watch.wildcard = (watch.wildcard or "*" in added) and "*" not in dropped
        added.discard("*")
        for name in added | dropped:
            watch.sent.pop(name, None)
        watch.names = (watch.names | added) - dropped
        return added - set(snapshot.of_type(request.type_url))

    def _answer(
        self,
        type_url: str,
        watch: _Watch,
        snapshot: Snapshot,
        version: str,
        missing: set[str],
        *,
        even_empty: bool = False,
    ) -> list[Outgoing]:
        offered = snapshot.of_type(type_url)
        changed = [one for one in watch.wanted(offered) if watch.sent.get(one.name) != one.version]
        removed = sorted((set(watch.sent) - set(offered)) | missing)
        watch.push_due = False
        if not changed and not removed and not even_empty:
            return []
        watch.sent.update({one.name: one.version for one in changed})
        for name in removed:
            watch.sent.pop(name, None)
        watch.nonce, watch.in_flight = self._make_nonce(version), True
        message = discovery_pb2.DeltaDiscoveryResponse(
            type_url=type_url,
            system_version_info=version,
            nonce=watch.nonce,
            resources=[_delta_resource(one) for one in changed],
            removed_resources=removed,
        )
        names = tuple(one.name for one in changed)
        return [_outgoing(type_url, watch, version, names, message.SerializeToString())]


def _delta_resource(one: Resource) -> discovery_pb2.Resource:
    packed = AnyMessage(type_url=one.type_url, value=one.value)
    return discovery_pb2.Resource(name=one.name, version=one.version, resource=packed)


def _verbatim(
    snapshot: Snapshot,
    type_url: str,
    watch: _Watch,
    message: discovery_pb2.DiscoveryResponse | discovery_pb2.DeltaDiscoveryResponse,
) -> Outgoing:
    data = snapshot.verbatim[type_url]
    message.ParseFromString(data)
    watch.nonce, watch.in_flight = message.nonce, True
    watch.sent = {one.name: one.version for one in watch.wanted(snapshot.of_type(type_url))}
    is_delta = isinstance(message, discovery_pb2.DeltaDiscoveryResponse)
    version = message.system_version_info if is_delta else message.version_info
    return _outgoing(type_url, watch, version, tuple(watch.sent), data)


def _outgoing(type_url: str, watch: _Watch, version: str, names: tuple[str, ...], data: bytes) -> Outgoing:
    return Outgoing(type_url=type_url, nonce=watch.nonce, version_info=version, names=names, data=data)
