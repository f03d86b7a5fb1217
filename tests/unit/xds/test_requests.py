"""What the agent itself says to istiod, read back with the generated messages."""

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb

from pilot_agent.xds import requests
from pilot_agent.xds.requests import Variant

KINDS: dict[Variant, Any] = {"sotw": pb.DiscoveryRequest, "delta": pb.DeltaDiscoveryRequest}
VARIANTS = pytest.mark.parametrize("variant", ["sotw", "delta"])


@VARIANTS
def test_a_subscription_carries_the_type_url_alone(variant: Variant) -> None:
    message = KINDS[variant].FromString(requests.subscription(variant, "t"))
    assert message == KINDS[variant](type_url="t")


@VARIANTS
@pytest.mark.parametrize("error", [None, "connection refused", ""])
def test_a_health_report_has_an_error_detail_when_unhealthy(variant: Variant, error: str | None) -> None:
    message = KINDS[variant].FromString(requests.health(variant, "t", error))
    expected = KINDS[variant](type_url="t")
    if error is not None:
        expected.error_detail.code = 13
        expected.error_detail.message = error
    assert message == expected


@VARIANTS
@pytest.mark.parametrize("error", [None, "no name table"])
def test_an_answer_names_the_response_and_has_the_version_on_a_nack_too(
    variant: Variant, error: str | None
) -> None:
    raw = requests.answer(variant, "t", version_info="v", nonce="n", error=error)
    expected = KINDS[variant](type_url="t", response_nonce="n")
    if variant == "sotw":
        expected.version_info = "v"
    if error is not None:
        expected.error_detail.code = 13
        expected.error_detail.message = error
    assert KINDS[variant].FromString(raw) == expected
