"""Envoy, the agent's record and istiod as a model: three parties, four queues, and cuts between them.

istiod's part is the lab's protocol; the agent's part is the product's record; Envoy's part is here. The
model moves one message at a time, so a test can cut anywhere.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from envoy.service.discovery.v3 import discovery_pb2 as pb

from lab.snapshot import Resource, Snapshot
from lab.stream import DeltaStream, SotwStream, Stream
from pilot_agent.xds.delta import DeltaSubscriptions
from pilot_agent.xds.record import KeptRecord
from pilot_agent.xds.sotw import SotwSubscriptions
from tests.support.xds_messages import CDS, EDS

Variant = Literal["sotw", "delta"]
World = dict[str, dict[str, bytes]]  # type URL → name → content
QUEUES = ("from_envoy", "to_istiod", "from_istiod", "to_envoy")
REQUESTS: Any = {"sotw": pb.DiscoveryRequest, "delta": pb.DeltaDiscoveryRequest}
RESPONSES: Any = {"sotw": pb.DiscoveryResponse, "delta": pb.DeltaDiscoveryResponse}


def content(name: str, value: bytes) -> bytes:
    """Return an encoded resource whose field 1 is its name, as all of Envoy's have it."""
    return b"\x0a" + bytes([len(name)]) + name.encode() + b"\x12" + bytes([len(value)]) + value


def is_bad(resource: bytes) -> bool:
    """Return whether Envoy rejects this resource, always."""
    return resource.endswith(b"bad")


@dataclass
class _Watch:
    names: set[str]
    everything: bool
    held: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # name → version, content
    version_info: str = ""
    nonce: str = ""


class ModelEnvoy:
    """Subscribes to all clusters and some endpoints; takes what is good and rejects what is bad."""

    def __init__(self, variant: Variant, names: set[str], *, legacy: bool) -> None:
        self.variant, self._legacy = variant, legacy
        self.watches = {CDS: _Watch(set(), everything=True), EDS: _Watch(set(names), everything=False)}
        self.seen_nonces: set[str] = set()

    def first_requests(self) -> list[bytes]:
        """Open a stream, or open it again after it was cut."""
        requests = []
        for number, (type_url, watch) in enumerate(self.watches.items()):
            watch.nonce = ""
            if not watch.everything and not watch.names:
                continue
            message = REQUESTS[self.variant](type_url=type_url)
            if number == 0:
                message.node.id = "sidecar~1"
            if self.variant == "sotw":
                message.resource_names.extend(sorted(watch.names))
                message.version_info = watch.version_info
            else:
                everything = ["*"] if watch.everything and not self._legacy else []
                message.resource_names_subscribe.extend(everything + sorted(watch.names))
                for name, (version, _) in watch.held.items():
                    message.initial_resource_versions[name] = version
            requests.append(message.SerializeToString())
        return requests

    def asks_for_endpoints(self, names: set[str]) -> list[bytes]:
        """Change the names; return what Envoy says then."""
        watch = self.watches[EDS]
        added, dropped = names - watch.names, watch.names - names
        if not added and not dropped:
            return []
        watch.names = set(names)
        for name in dropped:
            watch.held.pop(name, None)
        if self.variant == "delta":
            message = pb.DeltaDiscoveryRequest(
                type_url=EDS,
                resource_names_subscribe=sorted(added),
                resource_names_unsubscribe=sorted(dropped),
            )
            return [message.SerializeToString()]
        return [self._sotw_request(EDS, watch)]

    def receives(self, body: bytes) -> list[bytes]:
        """Take a response; return the answer."""
        message = RESPONSES[self.variant].FromString(body)
        assert message.nonce not in self.seen_nonces, "the same response twice"
        self.seen_nonces.add(message.nonce)
        watch = self.watches[message.type_url]
        watch.nonce = message.nonce
        if self.variant == "delta":
            return [self._takes_delta(message, watch)]
        return [self._takes_sotw(message, watch)]

    def _takes_sotw(self, message: pb.DiscoveryResponse, watch: _Watch) -> bytes:
        told = {_name(one.value): one.value for one in message.resources}
        good = {name: value for name, value in told.items() if not is_bad(value)}
        if watch.everything:
            kept = {name: held for name, held in watch.held.items() if name in told}
            watch.held = kept | {name: ("", value) for name, value in good.items()}
        else:
            watch.held |= {name: ("", value) for name, value in good.items() if name in watch.names}
        is_nack = len(good) < len(told)
        if not is_nack:
            watch.version_info = message.version_info
        return self._sotw_request(message.type_url, watch, is_nack=is_nack)

    def _takes_delta(self, message: pb.DeltaDiscoveryResponse, watch: _Watch) -> bytes:
        is_nack = False
        for one in message.resources:
            if not watch.everything and one.name not in watch.names:
                continue
            if is_bad(one.resource.value):
                is_nack = True
            else:
                watch.held[one.name] = one.version, one.resource.value
        for name in message.removed_resources:
            watch.held.pop(name, None)
        answer = pb.DeltaDiscoveryRequest(type_url=message.type_url, response_nonce=message.nonce)
        if is_nack:
            answer.error_detail.message = "bad"
        return bytes(answer.SerializeToString())

    def _sotw_request(self, type_url: str, watch: _Watch, *, is_nack: bool = False) -> bytes:
        message = pb.DiscoveryRequest(
            type_url=type_url,
            version_info=watch.version_info,
            response_nonce=watch.nonce,
            resource_names=sorted(watch.names),
        )
        if is_nack:
            message.error_detail.message = "bad"
        return bytes(message.SerializeToString())


class Model:
    """The three parties of one stream. `cut_*` loses what is under way on that side."""

    def __init__(self, variant: Variant, names: set[str], world: World, *, legacy: bool = True) -> None:
        self.variant = variant
        self.envoy = ModelEnvoy(variant, names, legacy=legacy)
        self.world = {type_url: dict(by_name) for type_url, by_name in world.items()}
        self._pushes = self._nonces = 0
        self.to_istiod: deque[bytes] = deque()
        self.from_istiod: deque[bytes] = deque()
        self.to_envoy: deque[bytes] = deque()
        self.from_envoy: deque[bytes] = deque()
        self._leg_nonces: set[str] = set()
        self._answered: set[str] = set()
        self.cut_downstream()

    def cut_downstream(self) -> None:
        """Lose Envoy's stream; it opens another one, as after a death of the downstream half."""
        self.to_envoy.clear()
        self.from_envoy.clear()
        self._record = SotwSubscriptions() if self.variant == "sotw" else DeltaSubscriptions()
        self.from_envoy.extend(self.envoy.first_requests())
        self.cut_upstream()

    def hand_over(self) -> None:
        """Replace the downstream half by plan: Envoy's stream goes on, with all that is under way on it."""
        successor = SotwSubscriptions() if self.variant == "sotw" else DeltaSubscriptions()
        successor.resume(msgspec.msgpack.decode(msgspec.msgpack.encode(self._record.keep()), type=KeptRecord))
        self._record = successor
        self.cut_upstream()

    def cut_upstream(self) -> None:
        """Lose the stream to istiod with all that is under way on it, and begin the next leg."""
        self.to_istiod.clear()
        self.from_istiod.clear()
        self._leg_nonces.clear()
        self._stream: Stream = (SotwStream if self.variant == "sotw" else DeltaStream)(self._nonce)
        self._has_node = False
        self.to_istiod.extend(self._record.next_leg())

    def push(self, world: World) -> None:
        self.world = {type_url: dict(by_name) for type_url, by_name in world.items()}
        self._pushes += 1
        self._sends(self._stream.push(self._snapshot(), str(self._pushes)))

    def step(self, queue: str) -> bool:
        """Deliver the oldest message of this queue; return whether there was one."""
        waiting: deque[bytes] = getattr(self, queue)
        if not waiting:
            return False
        getattr(self, f"_deliver_{queue}")(waiting.popleft())
        return True

    def settle(self) -> None:
        """Deliver everything until nobody has anything to say."""
        for _ in range(10_000):
            if not any(self.step(queue) for queue in QUEUES):
                return
        raise AssertionError("they talk for ever")

    def held(self) -> dict[str, dict[str, bytes]]:
        """Return what Envoy holds of all that exists and is good."""
        return {
            type_url: {
                name: value
                for name, (_, value) in watch.held.items()
                if name in self.world[type_url] and not is_bad(self.world[type_url][name])
            }
            for type_url, watch in self.envoy.watches.items()
        }

    def _deliver_from_envoy(self, body: bytes) -> None:
        forwarded = self._record.request(body)
        if forwarded is not None:
            self.to_istiod.append(forwarded)

    def _deliver_to_istiod(self, body: bytes) -> None:
        message = REQUESTS[self.variant].FromString(body)
        assert message.HasField("node") != self._has_node, "the node stands in the first request alone"
        self._has_node = True
        nonce = message.response_nonce
        assert not nonce or nonce in self._leg_nonces, "a nonce of another leg"
        if self.variant == "delta":
            assert nonce not in self._answered, "the same answer twice"
            self._answered |= {nonce} - {""}
        _, outgoing = self._stream.receive(message, self._snapshot(), str(self._pushes))
        self._sends(outgoing)

    def _deliver_from_istiod(self, body: bytes) -> None:
        self._record.response(body)
        self.to_envoy.append(body)

    def _deliver_to_envoy(self, body: bytes) -> None:
        self.from_envoy.extend(self.envoy.receives(body))

    def _sends(self, outgoing: list[Any]) -> None:
        self._leg_nonces |= {each.nonce for each in outgoing}
        self.from_istiod.extend(each.data for each in outgoing)

    def _nonce(self, version: str) -> str:
        self._nonces += 1
        return f"{version}/{self._nonces}"

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(
            *(
                Resource.of(name, type_url, value)
                for type_url, by_name in self.world.items()
                for name, value in by_name.items()
            )
        )


def _name(resource: bytes) -> str:
    return resource[2 : 2 + resource[1]].decode()
