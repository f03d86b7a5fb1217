"""Replays what a real istiod said: its recorded responses, byte for byte.

A recording is a file of messages, each behind a varint length, for one role and one protocol variant.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2

from lab.snapshot import LDS, NDS, PCDS, Resource, Snapshot, World, everyone_sees
from pilot_agent.wire import fields

Variant = Literal["sotw", "delta"]


def recorded_messages(path: Path) -> Iterator[bytes]:
    """Yield the responses of one recording in order, unparsed.

    Raises:
        ValueError: the file ends within a message.
    """
    data, at = path.read_bytes(), 0
    while at < len(data):
        length = shift = 0
        while True:
            byte = data[at]
            at, length, shift = at + 1, length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        if at + length > len(data):
            raise ValueError(f"{path}: {length} bytes announced at offset {at}, {len(data) - at} left")
        yield data[at : at + length]
        at += length


def recorded_snapshot(folder: Path, role: str, variant: Variant) -> Snapshot:
    """Return what istiod told `role`; a first request of each type is answered with its very bytes."""
    resources: list[Resource] = []
    verbatim: dict[str, bytes] = {}
    for data in recorded_messages(folder / f"ads-{role}.{variant}.binpb"):
        type_url, found = _parse(data, variant)
        resources += found
        verbatim[type_url] = data
    return Snapshot(by_type=Snapshot.of(*resources).by_type, verbatim=verbatim)


def recorded_world(folder: Path, variant: Variant) -> World:
    """Return a world in which sidecars and routers are told what was recorded for their role."""
    known = {role: recorded_snapshot(folder, role, variant) for role in ("sidecar", "router")}
    return lambda node: known["router" if node.role == "router" else "sidecar"]


def on_other_ports(snapshot: Snapshot, pick: Callable[[int], int]) -> World:
    """Return the recorded resources with the ports that listeners bind replaced; all other bytes stay."""
    resources = [one for by_name in snapshot.by_type.values() for one in by_name.values()]
    moved = (_moved(one, pick) if one.type_url == LDS else one for one in resources)
    return everyone_sees(Snapshot.of(*moved))


def _moved(resource: Resource, pick: Callable[[int], int]) -> Resource:
    listener = listener_pb2.Listener.FromString(resource.value)
    if listener.HasField("bind_to_port") and not listener.bind_to_port.value:
        return resource
    socket = listener.address.socket_address
    socket.port_value = pick(socket.port_value)
    return Resource.of(resource.name, resource.type_url, listener.SerializeToString(deterministic=True))


def _parse(data: bytes, variant: Variant) -> tuple[str, list[Resource]]:
    if variant == "delta":
        delta = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
        found = [Resource.of(one.name, delta.type_url, one.resource.value) for one in delta.resources]
        return delta.type_url, found
    sotw = discovery_pb2.DiscoveryResponse.FromString(data)
    found = [Resource.of(_name(sotw.type_url, one.value), sotw.type_url, one.value) for one in sotw.resources]
    return sotw.type_url, found


def _name(type_url: str, value: bytes) -> str:
    """Return field 1: the name in every resource that is asked for by name. Internal ones have none."""
    if type_url in (NDS, PCDS):
        return ""
    return next((value[one.start : one.end].decode() for one in fields(value) if one.number == 1), "")
