"""Envoy and istiod come and go on the xDS path: whose stream is whose, and what is told again."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from actors.messages.health import WorkloadHealthy, WorkloadUnhealthy
from actors.runtime.roles import Role
from tests.support.fake_istiod import EnvoyClient, FakeIstiod, IstiodSideStream
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, HEALTH, LDS, NDS, ack, request, response
from tests.support.xds_pair import XdsPair, plaintext_options

VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])


@pytest.fixture
def istiod() -> Iterator[FakeIstiod]:
    server = FakeIstiod().start()
    yield server
    server.kill()


@pytest.fixture
def pair(istiod: FakeIstiod, tmp_path: Path) -> Iterator[XdsPair]:
    with closing(XdsPair(plaintext_options(tmp_path, istiod.address, wants_name_table=True))) as made:
        yield made


def told(stream: IstiodSideStream) -> tuple[str, str]:
    """Return what the next health report says: nothing for healthy."""
    report = stream.receive()
    while report.type_url != HEALTH:
        report = stream.receive()
    return report.type_url, report.error_detail.message


def say(pair: XdsPair, verdict: object) -> None:
    pair.refs[Role.UPSTREAM_XDS].ask(verdict)


@VARIANTS
def test_the_applications_state_is_kept_over_every_loss_and_told_with_each_new_stream(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    say(pair, WorkloadUnhealthy(message="too early"))
    envoy = pair.envoy(variant)
    envoy.send(request(variant, CDS, node="n"))
    stream = istiod.next_stream()
    assert stream.receive().type_url == CDS
    assert stream.is_quiet(), "nothing is said before the request for listeners"
    envoy.send(request(variant, LDS))
    assert told(stream) == (HEALTH, "too early")

    stream.end()  # istiod has gone and has forgotten all
    stream = istiod.next_stream()
    assert told(stream) == (HEALTH, "too early")

    istiod.kill()
    say(pair, WorkloadHealthy())  # a change that nobody hears
    istiod.start()
    stream = istiod.next_stream(30)
    assert told(stream) == (HEALTH, "")

    envoy.close()
    stream.wait_for_end()
    say(pair, WorkloadUnhealthy(message="between two Envoys"))
    envoy = pair.envoy(variant)
    envoy.send(request(variant, CDS, node="n"))
    envoy.send(request(variant, LDS))
    assert told(istiod.next_stream()) == (HEALTH, "between two Envoys")


def passes(envoy: EnvoyClient, stream: IstiodSideStream, nonce: str) -> None:
    """Push one response, and have it accepted."""
    pushed = response(envoy.variant, CDS, nonce)
    stream.send(pushed)
    assert envoy.receive().nonce == nonce
    envoy.send(ack(envoy.variant, pushed))
    assert stream.receive().response_nonce == nonce


def asked(envoy: EnvoyClient, istiod: FakeIstiod) -> IstiodSideStream:
    """Ask for clusters; return the stream on which istiod hears of it."""
    envoy.send(request(envoy.variant, CDS, node="n"))
    stream = istiod.next_stream()
    assert stream.receive().type_url == CDS
    return stream


@VARIANTS
def test_a_stream_after_another_on_the_same_connection_has_one_to_istiod_of_its_own(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    first = pair.envoy(variant)
    stream = asked(first, istiod)
    passes(first, stream, "1")
    first.half_close()
    assert first.wait_for_end()[0] is grpc.StatusCode.OK
    stream.wait_for_end()
    second = pair.envoy(variant, beside=first)
    passes(second, asked(second, istiod), "2")


@VARIANTS
@pytest.mark.parametrize("same_connection", [True, False], ids=["same connection", "another"])
def test_a_stream_beside_another_replaces_it_and_works_on_when_that_is_gone(
    pair: XdsPair, istiod: FakeIstiod, variant: str, same_connection: bool
) -> None:
    older = pair.envoy(variant)
    older_stream = asked(older, istiod)
    passes(older, older_stream, "1")
    newer = pair.envoy(variant, beside=older if same_connection else None)
    newer_stream = asked(newer, istiod)
    assert older.wait_for_end()[0] is grpc.StatusCode.OK
    older_stream.wait_for_end()
    if not same_connection:
        older.close()
    passes(newer, newer_stream, "2")


@VARIANTS
def test_types_that_envoy_never_asked_for_reach_it_and_are_noted_nowhere(
    pair: XdsPair, istiod: FakeIstiod, variant: str
) -> None:
    envoy = pair.envoy(variant)
    stream = asked(envoy, istiod)
    passes(envoy, stream, "1")
    wait_for(lambda: "xds/CDS/accepted_at" in pair.upstream.notes, what="the note, behind the message")
    known = set(pair.upstream.notes)
    for number in range(100):
        stream.send(response(variant, f"type.googleapis.com/envoy.Unasked{number}", "n"))
        assert envoy.receive().type_url.endswith(f"Unasked{number}")
        stream.send(response(variant, f"type.googleapis.com/istio.Unknown{number}", "n"))
    passes(envoy, stream, "2")
    assert set(pair.upstream.notes) == known


def test_an_internal_resource_without_content_is_rejected(pair: XdsPair, istiod: FakeIstiod) -> None:
    envoy = pair.envoy("delta")
    stream = asked(envoy, istiod)
    envoy.send(request("delta", LDS))
    assert [stream.receive().type_url for _ in range(2)] == [LDS, NDS]
    empty = response("delta", NDS, "n1", table=b"")
    empty.resources[0].ClearField("resource")
    stream.send(empty)
    rejected = stream.receive()
    assert (rejected.response_nonce, rejected.error_detail.code) == ("n1", 13)
    assert pair.others.empty()


def test_a_removal_alone_of_an_internal_type_is_passed_over(pair: XdsPair, istiod: FakeIstiod) -> None:
    envoy = pair.envoy("delta")
    stream = asked(envoy, istiod)
    envoy.send(request("delta", LDS))
    assert [stream.receive().type_url for _ in range(2)] == [LDS, NDS]
    removal = response("delta", NDS, "n1")
    removal.removed_resources.append("table")
    stream.send(removal)
    assert stream.is_quiet()
    assert pair.others.empty()
