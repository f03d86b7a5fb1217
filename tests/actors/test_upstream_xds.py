"""The whole xDS path over real gRPC, looked at from istiod's side."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from msgspec.structs import replace

from actors.messages.cert import TrustBundle
from actors.messages.control import PeerRestarted
from actors.messages.dns import NameTableTaken, NameTableWanted
from actors.messages.health import WorkloadHealthy, WorkloadUnhealthy
from actors.messages.xds import NameTable
from actors.runtime.roles import Role
from lab.replay import recorded_messages
from tests.support.fake_istiod import RESPONSE_TYPES, EnvoyClient, FakeIstiod, IstiodSideStream
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, EDS, HEALTH, LDS, NDS, PCDS, ack, asked, request, response
from tests.support.xds_pair import XdsPair, plaintext_options

VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])


@pytest.fixture
def istiod() -> Iterator[FakeIstiod]:
    server = FakeIstiod().start()
    yield server
    server.kill()


@pytest.fixture
def pair(istiod: FakeIstiod, tmp_path: Path) -> Iterator[XdsPair]:
    with_both = plaintext_options(
        tmp_path, istiod.address, headers=(("a", "b=c"),), wants_name_table=True, wants_trust_bundle=True
    )
    made = XdsPair(with_both)
    yield made
    made.close()


def connected(
    pair: XdsPair, istiod: FakeIstiod, variant: str, generation: int | None = None
) -> tuple[EnvoyClient, IstiodSideStream]:
    """Return both ends after Envoy asked for clusters and istiod saw it."""
    envoy = pair.envoy(variant, generation)
    envoy.send(request(variant, CDS, node="sidecar~1"))
    stream = istiod.next_stream()
    assert stream.receive().node.id == "sidecar~1"
    return envoy, stream


def past_listeners(envoy: EnvoyClient, stream: IstiodSideStream, variant: str) -> list[Any]:
    """Ask for listeners; return the requests that come behind that."""
    envoy.send(request(variant, LDS))
    assert stream.receive().type_url == LDS
    return [stream.receive(), stream.receive()]


@VARIANTS
def test_bytes_pass_both_ways_untouched_with_the_metadata_that_istiod_wants(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy = pair.envoy(variant, generation=4)
    asking = request(variant, CDS, node="sidecar~1")
    unknown_field = b"\xba\x3e\x03abc"
    envoy.send(asking.SerializeToString() + unknown_field)
    stream = istiod.next_stream()
    assert stream.variant == variant
    assert stream.raw.get(timeout=10) == asking.SerializeToString() + unknown_field
    answer = response(variant, CDS, "n1", cluster=b"\x0a\x01c").SerializeToString() + unknown_field
    stream.send(answer)

    assert envoy.receive_bytes() == answer
    assert stream.metadata["clusterid"] == "Kubernetes"
    assert stream.metadata["a"] == "b=c"
    assert stream.metadata["authorization"] == "Bearer good-token"
    assert "x-envoy-generation" not in stream.metadata
    assert stream.authority == istiod.address
    assert pair.upstream.counters["xds_proxy_requests"] == 1
    assert pair.upstream.counters["xds_proxy_responses"] == 1


@VARIANTS
def test_the_first_listener_request_is_followed_by_those_of_the_agent_itself(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    own = past_listeners(envoy, stream, variant)

    assert [each.type_url for each in own] == [NDS, PCDS]
    assert all(not each.HasField("node") and not asked(each) and not each.response_nonce for each in own)
    envoy.send(request(variant, LDS, "more"))
    assert stream.receive().type_url == LDS
    assert stream.is_quiet()


@VARIANTS
def test_health_is_told_after_the_listener_request_and_then_on_each_change(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    pair.refs[Role.UPSTREAM_XDS].ask(WorkloadUnhealthy(message="connection refused"))
    assert stream.is_quiet()

    past_listeners(envoy, stream, variant)
    report = stream.receive()
    assert (report.type_url, report.error_detail.code, report.error_detail.message) == (
        HEALTH,
        13,
        "connection refused",
    )
    pair.refs[Role.UPSTREAM_XDS].ask(WorkloadHealthy())
    report = stream.receive()
    assert report.type_url == HEALTH
    assert not report.HasField("error_detail")


@VARIANTS
def test_a_name_table_and_a_trust_bundle_go_to_their_actors_and_are_acked(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    past_listeners(envoy, stream, variant)
    table = b"\x0a\x03\x0a\x01a"
    stream.send(response(variant, NDS, "n1", "7", table=table))
    stream.send(response(variant, PCDS, "n2", "8", config=b"\x92\x02\x03pem"))

    assert pair.others.get(timeout=10) == (Role.DNS, NameTable(body=table, number=(1 << 32) + 1))
    assert pair.others.get(timeout=10) == (Role.CERT, TrustBundle(ca_certificates_pem=("pem",)))
    for type_url, nonce, version in ((NDS, "n1", "7"), (PCDS, "n2", "8")):
        acked = stream.receive()
        assert (acked.type_url, acked.response_nonce) == (type_url, nonce)
        assert not acked.HasField("error_detail")
        assert variant == "delta" or acked.version_info == version


@VARIANTS
def test_a_name_table_is_sent_again_to_a_restarted_dns_actor_until_one_took_it(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    past_listeners(envoy, stream, variant)
    stream.send(response(variant, NDS, "n1", "7", table=b"\x0a\x03\x0a\x01a"))
    sent = pair.others.get(timeout=10)
    assert isinstance(sent[1], NameTable)

    pair.upstream.tell_self(PeerRestarted(role=Role.DNS, incarnation=2))
    assert pair.others.get(timeout=10) == sent

    pair.upstream.receive(Role.DNS, NameTableTaken(number=sent[1].number - 1))  # of an older one
    pair.upstream.tell_self(PeerRestarted(role=Role.DNS, incarnation=3))
    assert pair.others.get(timeout=10) == sent

    pair.upstream.receive(Role.DNS, NameTableTaken(number=sent[1].number))
    pair.upstream.tell_self(PeerRestarted(role=Role.DNS, incarnation=4))
    pair.refs[Role.UPSTREAM_XDS].ask(WorkloadHealthy())  # all before it was worked on
    assert pair.others.empty()


@VARIANTS
def test_a_dns_actor_that_starts_later_has_its_table_asked_for_on_open_and_on_new_streams(
    tmp_path: Path, istiod: FakeIstiod, variant: str
) -> None:
    with closing(XdsPair(plaintext_options(tmp_path, istiod.address))) as pair:
        early, early_stream = connected(pair, istiod, variant)
        late, late_stream = connected(pair, istiod, variant, generation=2)
        early.send(request(variant, LDS))
        assert early_stream.receive().type_url == LDS

        for _ in range(2):  # the second time nothing is asked again
            pair.upstream.receive(Role.DNS, NameTableWanted())
        asked = early_stream.receive()
        assert (asked.type_url, asked.response_nonce) == (NDS, "")
        assert early_stream.is_quiet()

        late.send(request(variant, LDS))
        assert [late_stream.receive().type_url for _ in range(2)] == [LDS, NDS]
        assert late_stream.is_quiet()


@VARIANTS
@pytest.mark.parametrize(
    ("content", "resource_type"),
    [
        (b"\xff", NDS),
        (b"", LDS),
        (b"\x0a\x03\x0a\x01\xff", NDS),
        (b"\x0a\x03\x0a\x01a\x0a\x07\x0a\x01b\x12\x02\x08\x01", NDS),
        (b"\x0a\x05\x0a\x01a\x12\x7f", NDS),
    ],
    ids=[
        "malformed",
        "another type",
        "a host that is no UTF-8",
        "an address that is a number",
        "cut off inside",
    ],
)
def test_a_bad_name_table_is_rejected_with_code_13_and_changes_nothing(
    pair: XdsPair, istiod: FakeIstiod, variant: str, content: bytes, resource_type: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    past_listeners(envoy, stream, variant)
    bad = response(variant, NDS, "n1", "7", table=content)
    (bad.resources[0] if variant == "sotw" else bad.resources[0].resource).type_url = resource_type
    stream.send(bad)

    rejected = stream.receive()
    assert (rejected.type_url, rejected.response_nonce, rejected.error_detail.code) == (NDS, "n1", 13)
    assert rejected.error_detail.message
    assert variant == "delta" or rejected.version_info == "7"
    assert pair.others.empty()


@VARIANTS
def test_empty_internal_and_unknown_types_are_dropped_and_the_stream_goes_on(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    stream.send(response(variant, NDS, "n1"))
    stream.send(response(variant, "type.googleapis.com/istio.security.Authorization", "n2", x=b""))
    stream.send(response(variant, CDS, "n3"))

    assert envoy.receive().nonce == "n3"
    assert stream.is_quiet()
    assert pair.upstream.counters["xds_proxy_responses"] == 3


@VARIANTS
def test_one_response_is_in_flight_and_the_next_is_read_when_envoy_took_it(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    envoy.pause()
    for number in range(5):
        stream.send(response(variant, CDS, str(number), cluster=b"x" * (1 << 20)))
    wait_for(lambda: pair.upstream.counters.get("xds_proxy_responses") == 2, what="the second response")
    assert stream.is_quiet()
    assert pair.upstream.counters["xds_proxy_responses"] == 2  # the first had been asked for already
    assert stream.taken < 5
    envoy.go_on()
    assert [envoy.receive().nonce for _ in range(5)] == list("01234")


@VARIANTS
def test_a_lost_istiod_leaves_envoys_stream_open_and_its_subscriptions_are_sent_again(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    envoy.send(request(variant, EDS, "a", "b"))
    assert asked(stream.receive()) == ("a", "b")
    stream.send(response(variant, CDS, "old", cluster=b"1"))
    envoy.send(ack(variant, envoy.receive()))
    assert stream.receive().response_nonce == "old"
    istiod.kill()
    istiod.start()

    again = istiod.next_stream()
    first, second = again.receive(), again.receive()
    assert (first.node.id, first.type_url, first.response_nonce) == ("sidecar~1", CDS, "")
    assert (second.type_url, asked(second), second.HasField("node")) == (EDS, ("a", "b"), False)
    if variant == "sotw":
        assert first.version_info == "1"
    else:
        assert dict(first.initial_resource_versions) == {"cluster": "1"}
    again.send(response(variant, CDS, "new"))
    assert envoy.receive().nonce == "new"
    assert pair.upstream.counters["istiod_connection_terminations,type=error"] == 1  # it said UNAVAILABLE


@VARIANTS
def test_what_envoy_says_of_an_older_stream_is_swallowed_but_a_new_subscription_in_it_passes(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    stream.send(response(variant, CDS, "old", cluster=b"1"))
    late = envoy.receive()
    stream.end(grpc.StatusCode.UNAVAILABLE, "going away")
    again = istiod.next_stream()
    assert again.receive().type_url == CDS

    envoy.send(ack(variant, late))
    envoy.send(request(variant, CDS, "x", nonce="old"))
    changed = again.receive()
    assert (asked(changed), changed.response_nonce) == (("x",), "")
    assert again.is_quiet()


@VARIANTS
@pytest.mark.parametrize(
    ("code", "counted"),
    [(grpc.StatusCode.OK, "cancelled"), (grpc.StatusCode.UNAUTHENTICATED, "error")],
    ids=["end of stream", "refused"],
)
def test_an_ended_stream_to_istiod_is_opened_again_and_counted_by_its_class(
    pair: XdsPair, istiod: FakeIstiod, variant: str, code: grpc.StatusCode, counted: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    stream.end(code, "as the test wants it")
    again = istiod.next_stream()
    assert again.receive().node.id == "sidecar~1"
    again.send(response(variant, CDS, "n"))
    assert envoy.receive().nonce == "n"
    assert pair.upstream.counters[f"istiod_connection_terminations,type={counted}"] == 1


@VARIANTS
def test_bytes_that_are_no_protobuf_end_the_stream_to_istiod_and_not_envoys(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    stream.send(b"\xff\xff\xff")
    again = istiod.next_stream()
    assert again.receive().type_url == CDS
    stream.wait_for_end()
    again.send(response(variant, CDS, "n"))
    assert envoy.receive().nonce == "n"
    assert pair.upstream.counters["istiod_connection_terminations,type=error"] == 1


@VARIANTS
def test_a_message_above_the_limit_ends_the_stream_to_istiod_alone_and_a_large_one_passes(
    istiod: FakeIstiod, tmp_path: Path, variant: str
) -> None:
    pair = XdsPair(plaintext_options(tmp_path, istiod.address, message_limit_bytes=20 << 20))
    try:
        envoy, stream = connected(pair, istiod, variant)
        stream.send(response(variant, CDS, "huge", cluster=b"x" * (21 << 20)))
        again = istiod.next_stream()
        assert again.receive().type_url == CDS
        again.send(response(variant, CDS, "large", cluster=b"x" * (19 << 20)))
        assert envoy.receive().nonce == "large"
        assert pair.upstream.counters["istiod_connection_terminations,type=error"] == 1
    finally:
        pair.close()


def test_requests_wait_while_istiod_is_down_and_reach_it_when_it_comes(tmp_path: Path) -> None:
    istiod = FakeIstiod().start()
    istiod.kill()
    pair = XdsPair(plaintext_options(tmp_path, istiod.address))
    try:
        envoy = pair.envoy("delta")
        envoy.send(request("delta", CDS, node="n"))
        envoy.send(request("delta", EDS, "a"))
        wait_for(
            lambda: pair.upstream.counters.get("istiod_connection_terminations,type=error"),
            what="a failed attempt",
        )
        istiod.start()
        stream = istiod.next_stream(30)
        assert [stream.receive().type_url, stream.receive().type_url] == [CDS, EDS]
        stream.send(response("delta", CDS, "n1"))
        assert envoy.receive().nonce == "n1"
    finally:
        pair.close()
        istiod.kill()


def test_ten_thousand_requests_wait_while_istiod_does_not_read_and_pushes_still_pass(
    pair: XdsPair, istiod: FakeIstiod
) -> None:
    envoy, stream = connected(pair, istiod, "delta")
    for number in range(10_000):
        envoy.send(request("delta", EDS, f"cluster-{number}-{'x' * 200}"))
    for number in range(50):
        stream.send(response("delta", CDS, str(number), cluster=b"y" * 10_000))
    assert [envoy.receive().nonce for _ in range(50)] == [str(number) for number in range(50)]
    names = [asked(stream.receive())[0].split("-")[1] for _ in range(10_000)]
    assert names == [str(number) for number in range(10_000)]


def test_a_missing_token_file_sends_no_header_and_a_new_token_is_read_for_the_next_stream(
    istiod: FakeIstiod, tmp_path: Path
) -> None:
    options = plaintext_options(tmp_path, istiod.address)
    Path(options.token_path).unlink()
    pair = XdsPair(options)
    try:
        envoy = pair.envoy()
        envoy.send(request("delta", CDS, node="n"))
        stream = istiod.next_stream()
        assert "authorization" not in stream.metadata
        Path(options.token_path).write_text("fresh\n")
        stream.end()
        assert istiod.next_stream().metadata["authorization"] == "Bearer fresh"
    finally:
        pair.close()


@pytest.mark.parametrize(
    ("content", "changes", "sent"),
    [
        (b"", {}, None),
        (b"a\x01b", {}, None),
        (b"\xff", {}, None),
        (b"good\n", {"token": "test_token"}, "Bearer test_token"),
        (b"good\n", {"token_path": ""}, None),
    ],
    ids=["empty", "no text", "no UTF-8", "the fetcher Mock", "no path"],
)
def test_a_token_that_cannot_be_sent_is_left_out_and_the_stream_goes_on(
    istiod: FakeIstiod, tmp_path: Path, content: bytes, changes: dict[str, str], sent: str | None
) -> None:
    options = plaintext_options(tmp_path, istiod.address)
    Path(options.token_path).write_bytes(content)
    with closing(XdsPair(replace(options, **changes))) as pair:
        pair.envoy().send(request("delta", CDS, node="n"))
        assert istiod.next_stream().metadata.get("authorization") == sent


def test_a_header_that_cannot_be_sent_is_counted_as_a_connection_failure(
    istiod: FakeIstiod, tmp_path: Path
) -> None:
    pair = XdsPair(plaintext_options(tmp_path, istiod.address, headers=(("bad name", "x"),)))
    try:
        pair.envoy().send(request("delta", CDS, node="n"))
        wait_for(lambda: pair.upstream.counters.get("istiod_connection_failures"), what="a failure")
    finally:
        pair.close()


def test_a_restarted_upstream_half_is_told_envoys_subscriptions_and_remembers_the_health(
    pair: XdsPair, istiod: FakeIstiod
) -> None:
    envoy, stream = connected(pair, istiod, "delta")
    past_listeners(envoy, stream, "delta")
    pair.refs[Role.UPSTREAM_XDS].ask(WorkloadUnhealthy(message="down"))
    assert stream.receive().type_url == HEALTH

    pair.kill(Role.UPSTREAM_XDS)
    envoy.send(request("delta", EDS, "lost-in-the-dead-process"))
    pair.start(Role.UPSTREAM_XDS)
    pair.tell_restarted(Role.UPSTREAM_XDS)

    again = istiod.next_stream()
    seen = [again.receive() for _ in range(6)]
    assert sorted(each.type_url for each in seen) == sorted([CDS, LDS, NDS, PCDS, HEALTH, EDS])
    assert seen[0].node.id == "sidecar~1"
    assert next(each for each in seen if each.type_url == HEALTH).error_detail.message == "down"
    again.send(response("delta", CDS, "n2"))
    assert envoy.receive().nonce == "n2"


def test_a_restarted_downstream_half_frees_the_streams_of_its_predecessor(
    pair: XdsPair, istiod: FakeIstiod
) -> None:
    envoy, stream = connected(pair, istiod, "delta")
    pair.restart(Role.DOWNSTREAM_XDS)
    stream.wait_for_end()
    envoy.wait_for_end()
    connected(pair, istiod, "delta")


def test_two_envoys_have_a_stream_each_and_health_is_told_by_the_newer(
    pair: XdsPair, istiod: FakeIstiod
) -> None:
    sides = []
    for generation in (1, 2):
        envoy = pair.envoy("delta", generation)
        envoy.send(request("delta", LDS, node=str(generation)))
        stream = istiod.next_stream()
        assert [stream.receive().type_url for _ in range(3)] == [LDS, NDS, PCDS]
        sides.append(stream)
    pair.refs[Role.UPSTREAM_XDS].ask(WorkloadHealthy())

    assert sides[1].receive().type_url == HEALTH
    assert sides[0].is_quiet()


def istiod_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("istiod-")]


def test_an_istiod_that_accepts_and_says_nothing_does_not_hold_a_closed_stream(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pair = XdsPair(plaintext_options(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}"))
        try:
            envoy = pair.envoy()
            envoy.send(request("delta", CDS, node="n"))
            wait_for(istiod_threads, what="the stream's thread")
            envoy.close()
            wait_for(lambda: not istiod_threads(), within_s=5.0, what="its end")
        finally:
            pair.close()


def test_no_thread_and_no_connection_is_left_after_many_streams(pair: XdsPair, istiod: FakeIstiod) -> None:
    before = 0
    for number in range(30):
        envoy, stream = connected(pair, istiod, "delta" if number % 2 else "sotw")
        envoy.close()
        stream.wait_for_end()
        wait_for(lambda: not istiod_threads(), what="the end of the stream's thread")
        before = before or len(psutil.Process().net_connections("tcp"))
    wait_for(
        lambda: len(psutil.Process().net_connections("tcp")) <= before + 2, what="the end of all connections"
    )


def test_a_stream_that_replaces_another_frees_the_upstream_one(pair: XdsPair, istiod: FakeIstiod) -> None:
    older, first = connected(pair, istiod, "delta")
    newer, second = connected(pair, istiod, "sotw")
    assert older.wait_for_end()[0] is grpc.StatusCode.OK
    first.wait_for_end()
    second.send(response("sotw", CDS, "n"))
    assert newer.receive().nonce == "n"


@VARIANTS
@pytest.mark.parametrize("role", ["sidecar", "router"])
def test_what_a_real_istiod_sent_arrives_byte_for_byte(
    pair: XdsPair, istiod: FakeIstiod, variant: str, role: str
) -> None:
    envoy, stream = connected(pair, istiod, variant)
    folder = Path(__file__).parents[1] / "data/recordings"
    recorded = list(recorded_messages(folder / f"ads-{role}.{variant}.binpb"))
    assert len(recorded) >= 4
    for body in recorded:
        stream.send(body)
    for body in recorded:
        if RESPONSE_TYPES[variant].FromString(body).type_url == NDS:
            to, table = pair.others.get(timeout=10)
            assert to is Role.DNS
            assert isinstance(table, NameTable)
            assert table.body in body
        else:
            assert envoy.receive_bytes() == body
    assert pair.upstream.counters["xds_proxy_responses"] == len(recorded)
