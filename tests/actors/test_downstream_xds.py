"""The ADS server towards Envoy, over its real socket."""

import gc
import os
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory

from actors.downstream_xds import DownstreamXdsActor
from actors.messages.control import LeaveEstate, PeerRestarted
from actors.messages.xds import (
    ReplayWanted,
    StreamClosed,
    StreamOpened,
    StreamsHeld,
    UpstreamClosed,
)
from actors.runtime.roles import Role
from pilot_agent.grpc_bootstrap import GrpcBootstrapOptions
from pilot_agent.xds import reflect_worker, reflection
from pilot_agent.xds.options import XdsOptions
from pilot_agent.xds.pipes import UpstreamEnd
from tests.support.context import FakeContext
from tests.support.fake_istiod import EnvoyClient
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, EDS, ack, request, response
from tests.support.xds_pair import plaintext_options

VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])


class Downstream:
    """The actor alone; the test is the upstream half."""

    def __init__(self, options: XdsOptions, **inherits: Any) -> None:
        self.options = options
        self.context = FakeContext(
            role=Role.DOWNSTREAM_XDS,
            options=(options, GrpcBootstrapOptions()),
            workers={"reflect": reflect_worker.reflect},
            incarnation=2 if inherits else 1,
            **inherits,
        )
        self.clients: list[EnvoyClient] = []
        self.ref: Any = None
        self.context.deliver = self._tell
        self.ref = DownstreamXdsActor.start(self.context)
        self._seen = 0
        self._legs: dict[object, tuple[int, UpstreamEnd[bytes]]] = {}

    def _tell(self, message: object) -> None:
        self.ref.tell(message)

    def envoy(self, variant: str = "delta", generation: int | None = None) -> EnvoyClient:
        self.clients.append(EnvoyClient(f"unix:{self.options.socket_path}", variant, generation))
        return self.clients[-1]

    def next(self, kind: type) -> Any:
        """Return the next message of this kind that goes upstream; those before it are skipped."""

        def look() -> object:
            while self._seen < len(self.context.sent):
                self._seen += 1
                to, message = self.context.sent[self._seen - 1]
                assert to is Role.UPSTREAM_XDS
                if isinstance(message, kind):
                    return message
            return None

        return wait_for(look, what=kind.__name__)

    def leg(self, opened: StreamOpened) -> UpstreamEnd[bytes]:
        if opened.stream not in self._legs or self._legs[opened.stream][0] != opened.leg:
            self._legs[opened.stream] = opened.leg, UpstreamEnd(*opened.descriptors)
        return self._legs[opened.stream][1]

    def forget(self) -> None:
        """Let go of all legs and clients."""
        self._legs.clear()
        self.clients.clear()

    def quit(self) -> None:
        for client in self.clients:
            client.close()
        self.ref.proxy().quit(5.0).get()
        self.ref.stop()


@pytest.fixture
def downstream(tmp_path: Path) -> Iterator[Downstream]:
    made = Downstream(plaintext_options(tmp_path, "127.0.0.1:1", streams_limit=4))
    yield made
    made.quit()


def test_the_socket_is_there_for_everybody_when_the_actor_is_ready_and_gone_when_it_has_quit(
    tmp_path: Path,
) -> None:
    made = Downstream(plaintext_options(tmp_path, "127.0.0.1:1"))
    wait_for(lambda: made.context.is_ready, what="ready")
    place = Path(made.options.socket_path)
    assert stat.S_IMODE(place.stat().st_mode) == 0o666
    assert stat.S_ISSOCK(place.stat().st_mode)
    made.quit()
    assert not place.exists()


def test_a_socket_that_cannot_be_bound_ends_the_agent_with_the_reason(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    made = Downstream(plaintext_options(tmp_path, "127.0.0.1:1", socket_path=str(blocked / "XDS")))
    reason = wait_for(lambda: made.context.fatal_reason, what="the reason")
    assert str(blocked / "XDS") in reason
    assert not made.context.is_ready
    made.quit()


@VARIANTS
def test_a_stream_is_announced_with_its_generation_and_its_bytes_follow(
    downstream: Downstream, variant: str
) -> None:
    envoy = downstream.envoy(variant, generation=7)
    body = request(variant, CDS, node="n").SerializeToString()
    envoy.send(body)
    opened = downstream.next(StreamOpened)
    assert (opened.variant, opened.generation, opened.leg) == (variant, 7, 1)
    assert downstream.leg(opened).receive() == body
    assert downstream.context.counters["pilot_xds_recv_max"] == len(body)

    answer = response(variant, CDS, "n1", c=b"").SerializeToString()
    downstream.leg(opened).send(answer)
    assert envoy.receive_bytes() == answer
    assert downstream.leg(opened).wait_until_taken()


@pytest.mark.parametrize("text", ["", "no number", "-3", "1e3", "1" * 10, "9" * 5000])
def test_a_generation_that_is_no_number_counts_as_none(downstream: Downstream, text: str) -> None:
    envoy = downstream.envoy("delta", generation=text)  # type: ignore[arg-type]
    envoy.send(request("delta", CDS))
    assert downstream.next(StreamOpened).generation == -1


@VARIANTS
@pytest.mark.parametrize("generation", [None, 3])
def test_a_newer_stream_of_the_same_envoy_ends_the_older_with_ok(
    downstream: Downstream, variant: str, generation: int | None
) -> None:
    older = downstream.envoy("sotw", generation)
    older.send(request("sotw", CDS))
    first = downstream.next(StreamOpened)
    newer = downstream.envoy(variant, generation)
    newer.send(request(variant, CDS))
    second = downstream.next(StreamOpened)

    assert older.wait_for_end() == (grpc.StatusCode.OK, "")
    assert downstream.next(StreamClosed).stream == first.stream
    downstream.leg(second).send(response(variant, CDS, "n").SerializeToString())
    assert newer.receive().nonce == "n"


def test_streams_of_different_envoys_live_side_by_side(downstream: Downstream) -> None:
    opened, envoys = [], []
    for generation in (1, 2):
        envoys.append(downstream.envoy("delta", generation))
        envoys[-1].send(request("delta", CDS))
        opened.append(downstream.next(StreamOpened))
    for envoy, each in zip(envoys, opened, strict=True):
        downstream.leg(each).send(response("delta", CDS, str(each.generation)).SerializeToString())
        assert envoy.receive().nonce == str(each.generation)


def test_a_half_close_ends_envoys_stream_with_ok_and_is_told_upstream(downstream: Downstream) -> None:
    envoy = downstream.envoy()
    envoy.send(request("delta", CDS))
    opened = downstream.next(StreamOpened)
    envoy.half_close()
    assert envoy.wait_for_end()[0] is grpc.StatusCode.OK
    assert downstream.next(StreamClosed).stream == opened.stream
    wait_for(
        lambda: downstream.context.counters.get("envoy_connection_terminations,type=cancelled"), what="count"
    )


def test_a_lost_connection_to_envoy_is_told_upstream_and_counted_cancelled(
    downstream: Downstream,
) -> None:
    envoy = downstream.envoy()
    envoy.send(request("delta", CDS))
    opened = downstream.next(StreamOpened)
    envoy.close()
    assert downstream.next(StreamClosed).stream == opened.stream
    wait_for(
        lambda: downstream.context.counters.get("envoy_connection_terminations,type=cancelled"), what="count"
    )


def test_bytes_of_envoys_that_are_no_protobuf_end_its_stream_with_internal(downstream: Downstream) -> None:
    envoy = downstream.envoy()
    envoy.send(b"\xff\xff")
    code, details = envoy.wait_for_end()
    assert code is grpc.StatusCode.INTERNAL
    assert "unmarshalling" in details
    wait_for(
        lambda: downstream.context.counters.get("envoy_connection_terminations,type=error"), what="count"
    )


def test_a_request_above_the_limit_is_refused_and_any_response_passes(
    downstream: Downstream,
) -> None:
    envoy = downstream.envoy(generation=1)
    envoy.send(request("delta", CDS))
    opened = downstream.next(StreamOpened)
    big = response("delta", CDS, "n", c=b"x" * (10 << 20)).SerializeToString()
    downstream.leg(opened).send(big)
    assert envoy.receive_bytes() == big
    envoy.send(request("delta", "x" * (5 << 20)))
    assert envoy.wait_for_end()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_stream_above_the_limit_is_refused_and_never_waits_in_silence(downstream: Downstream) -> None:
    for generation in range(4):
        downstream.envoy("delta", generation).send(request("delta", CDS))
        downstream.next(StreamOpened)
    refused = downstream.envoy("delta", 99)
    assert refused.wait_for_end()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_new_upstream_process_is_told_of_every_stream_and_its_subscriptions(downstream: Downstream) -> None:
    opened = []
    for generation, variant in ((1, "delta"), (2, "sotw")):
        downstream.envoy(variant, generation).send(request(variant, CDS, node="n"))
        opened.append(downstream.next(StreamOpened))
        assert downstream.leg(opened[-1]).receive()
    downstream.context.tell_self(PeerRestarted(role=Role.UPSTREAM_XDS, incarnation=2))

    assert downstream.next(StreamsHeld).streams == tuple(each.stream for each in opened)
    for each in opened:
        again = downstream.next(StreamOpened)
        assert (again.stream, again.leg, again.generation) == (each.stream, 2, each.generation)
        restored = request(each.variant, CDS, node="n").SerializeToString()
        assert downstream.leg(again).receive() == restored


def test_a_replay_is_given_once_for_each_leg_that_ended(downstream: Downstream) -> None:
    envoy = downstream.envoy()
    envoy.send(request("delta", CDS, node="n"))
    opened = downstream.next(StreamOpened)
    assert downstream.leg(opened).receive()
    wanted = ReplayWanted(stream=opened.stream, leg=1)
    downstream.context.receive(Role.UPSTREAM_XDS, wanted)
    assert downstream.next(StreamOpened).leg == 2
    downstream.context.receive(Role.UPSTREAM_XDS, wanted)
    downstream.context.receive(Role.UPSTREAM_XDS, ReplayWanted(stream=opened.stream, leg=2))
    assert downstream.next(StreamOpened).leg == 3


def test_a_leg_that_finds_no_descriptors_is_begun_when_it_is_asked_for_again(downstream: Downstream) -> None:
    envoy = downstream.envoy()
    envoy.send(request("delta", CDS, node="n"))
    opened = downstream.next(StreamOpened)
    assert downstream.leg(opened).receive()
    wanted = ReplayWanted(stream=opened.stream, leg=1)
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) // 2, usual[1]))
    try:
        downstream.context.receive(Role.UPSTREAM_XDS, wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    downstream.context.receive(Role.UPSTREAM_XDS, wanted)
    again = downstream.next(StreamOpened)
    assert again.leg == 2
    assert downstream.leg(again).receive()
    downstream.leg(again).send(response("delta", CDS, "n1").SerializeToString())
    assert envoy.receive().nonce == "n1"


def test_a_response_of_an_older_leg_does_not_reach_envoy(downstream: Downstream) -> None:
    envoy = downstream.envoy()
    envoy.send(request("delta", EDS, "a", node="n"))
    opened = downstream.next(StreamOpened)
    older = downstream.leg(opened)
    assert older.receive()
    downstream.context.receive(Role.UPSTREAM_XDS, ReplayWanted(stream=opened.stream, leg=1))
    assert older.receive() is None
    older.send(response("delta", EDS, "old").SerializeToString())
    again = downstream.next(StreamOpened)
    downstream.leg(again).send(response("delta", EDS, "new").SerializeToString())

    pushed = envoy.receive()
    assert pushed.nonce == "new"
    envoy.send(ack("delta", pushed))
    assert downstream.leg(again).receive()  # the replay
    assert b"new" in (downstream.leg(again).receive() or b"")


def test_upstream_may_end_envoys_stream_with_a_status(downstream: Downstream) -> None:
    envoy = downstream.envoy()
    envoy.send(request("delta", CDS))
    opened = downstream.next(StreamOpened)
    message = UpstreamClosed(stream=opened.stream, code=7, details="not allowed")
    downstream.context.receive(Role.UPSTREAM_XDS, message)
    assert envoy.wait_for_end() == (grpc.StatusCode.PERMISSION_DENIED, "not allowed")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """It runs seldom in an actor that has little to do: nothing may wait for it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_nothing_is_left_after_many_reconnects(downstream: Downstream) -> None:
    def once() -> None:
        envoy = downstream.envoy()
        envoy.send(request("delta", CDS))
        leg = downstream.leg(downstream.next(StreamOpened))
        assert leg.receive()
        envoy.close()
        downstream.next(StreamClosed)
        assert leg.receive() is None

    def left() -> tuple[int, int]:
        downstream.forget()
        threads = [each for each in threading.enumerate() if each.name.startswith("ads-")]
        return len(threads), len(list(Path("/proc/self/fd").iterdir()))

    once()  # gRPC's client keeps some files from its first use on
    wait_for(lambda: left()[0] == 2, what="the end of the first")
    threads, files = left()
    for _ in range(50):
        once()
    wait_for(lambda: left()[0] <= threads, what="the end of all threads")
    wait_for(lambda: left()[1] <= files + 2, what="the end of all files")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_reflection_client_sees_the_services_and_their_descriptors(
    downstream: Downstream, version: str
) -> None:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(reflect_worker._reflection_file(version).SerializeToString())
    service = f"grpc.reflection.{version}.ServerReflection"
    asking, answering = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(service + kind))
        for kind in ("Request", "Response")
    )
    questions = [
        asking(list_services=""),
        asking(file_containing_symbol="envoy.service.discovery.v3.AggregatedDiscoveryService"),
        asking(file_containing_symbol="no.such.Thing"),
        asking(all_extension_numbers_of_type="x"),
    ]
    wait_for(lambda: downstream.context.is_ready, what="ready")
    with grpc.insecure_channel(f"unix:{downstream.options.socket_path}") as channel:
        call = channel.stream_stream(
            f"/{service}/ServerReflectionInfo",
            request_serializer=asking.SerializeToString,
            response_deserializer=answering.FromString,
        )
        listed, described, unknown, other = call(iter(questions), timeout=20)

    assert [each.name for each in listed.list_services_response.service] == list(reflection.SERVICES)
    assert len(described.file_descriptor_response.file_descriptor_proto) > 5
    assert unknown.error_response.error_code == reflection.NOT_FOUND
    assert other.error_response.error_code == reflection.UNIMPLEMENTED


def test_a_failing_descriptor_lookup_is_answered_with_unavailable(downstream: Downstream) -> None:
    def fail(_: bytes) -> bytes:
        raise RuntimeError("no memory")

    downstream.context.workers["reflect"] = fail
    wait_for(lambda: downstream.context.is_ready, what="ready")
    symbol = b"\x22\x01x"
    with grpc.insecure_channel(f"unix:{downstream.options.socket_path}") as channel:
        call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None, None)
        (answer,) = call(iter([symbol]), timeout=20)
    assert b"no memory" in answer


@VARIANTS
def test_a_planned_successor_goes_on_with_the_streams_and_their_subscriptions(
    tmp_path: Path, variant: str
) -> None:
    old = Downstream(plaintext_options(tmp_path, "127.0.0.1:1"))
    wait_for(lambda: old.context.is_ready, what="ready")
    envoy = old.envoy(variant, generation=7)
    envoy.send(request(variant, CDS, node="n"))
    first = old.leg(old.next(StreamOpened))
    first.receive()
    answer = response(variant, CDS, "n1", version="1", c=b"")
    first.send(answer.SerializeToString())
    envoy.receive_bytes()
    envoy.send(ack(variant, answer))
    first.receive()

    handed_down = tuple(os.dup(descriptor) for descriptor in old.context.hands_down)
    old.ref.tell(LeaveEstate(patience_s=5.0))
    estate = wait_for(lambda: old.context.leaves, what="the estate")
    new = Downstream(old.options, handed_down=handed_down, estate=estate)
    opened = new.next(StreamOpened)
    assert (opened.variant, opened.generation, opened.leg) == (variant, 7, 2)
    leg = new.leg(opened)
    repeated = leg.receive()
    assert isinstance(repeated, bytes)
    assert b"n" in repeated  # the node
    second = response(variant, CDS, "n2", version="2", c=b"x").SerializeToString()
    leg.send(second)
    assert envoy.receive_bytes() == second
    assert leg.wait_until_taken()
    old.ref.stop()
    envoy.close()
    new.next(StreamClosed)
    new.quit()
