"""What a row of accepted responses amounts to."""

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb

from pilot_agent.xds.known_good.content import VERSION_KEY, Content
from tests.support.xds_messages import CDS, EDS, response
from tests.support.xds_model import content


def sotw(type_url: str, *pushes: tuple[str, list[str]]) -> Content:
    made = Content("sotw", type_url)
    for version, names in pushes:
        resources = {name: content(name, version.encode()) for name in names}
        made.accept(response("sotw", type_url, "n", version, **resources).SerializeToString())
    return made


def test_the_state_of_the_world_is_the_last_response() -> None:
    made = sotw(CDS, ("1", ["a", "b"]), ("2", ["b"]))
    assert set(made.resources) == {b"b"}
    assert made.version == "2"


def test_of_named_types_a_response_may_be_a_part() -> None:
    made = sotw(EDS, ("1", ["a", "b"]), ("2", ["b"]))
    assert {name: one.version for name, one in made.resources.items()} == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize(("version", "left"), [(b"2", {b"a", b"b"}), (b"1", set())])
def test_another_version_than_envoy_claims_keeps_nothing(version: bytes, left: set[bytes]) -> None:
    made = sotw(EDS, ("1", ["a"]), ("2", ["b"]))
    made.retain({VERSION_KEY: version})
    assert set(made.resources) == left


def test_only_claimed_names_are_retained_and_only_in_the_claimed_version() -> None:
    made = Content("delta", CDS)
    made.accept(response("delta", CDS, "n", "1", a=b"", b=b"", c=b"").SerializeToString())
    made.retain({b"a": b"", b"b": b"2", b"d": b""})
    assert set(made.resources) == {b"a"}


def test_a_response_carries_the_very_bytes_that_istiod_sent() -> None:
    unknown_field = b"\xba\x3e\x03abc"
    body = response("delta", CDS, "n", "1", a=b"1", b=b"2").SerializeToString()
    one = pb.DeltaDiscoveryResponse.FromString(body).resources[0].SerializeToString() + unknown_field
    made = Content("delta", CDS)
    made.accept(b"\x12" + bytes([len(one)]) + one + body)
    made.accept(b"\x12" + bytes([len(one)]) + one)
    assert one in made.response([b"a"], "x")
    assert b"b" not in pb.DeltaDiscoveryResponse.FromString(made.response([b"a"], "x")).resources
