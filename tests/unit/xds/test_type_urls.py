"""Where responses go."""

import pytest

from pilot_agent.xds.type_urls import destination, short_name
from tests.support.xds_messages import CDS, LDS, NDS, PCDS

G = "type.googleapis.com/"


@pytest.mark.parametrize(
    ("type_url", "consumed", "unconsumed"),
    [
        (LDS, "envoy", "envoy"),
        (G + "envoy.config.core.v3.TypedExtensionConfig", "envoy", "envoy"),
        (G + "envoy.something.new.v9.Thing", "envoy", "envoy"),
        (G + "istio.workload.Workload", "envoy", "envoy"),
        (G + "istio.workload.Address", "nobody", "nobody"),
        (G + "istio.security.Authorization", "nobody", "nobody"),
        (NDS, "dns", "nobody"),
        (PCDS, "cert", "nobody"),
        ("istio.io/debug/syncz", "nobody", "nobody"),
        ("", "nobody", "nobody"),
    ],
)
def test_a_type_has_one_destination(type_url: str, consumed: str, unconsumed: str) -> None:
    assert destination(type_url, name_table=True, trust_bundle=True) == consumed
    assert destination(type_url, name_table=False, trust_bundle=False) == unconsumed


def test_known_types_have_short_names_in_the_log() -> None:
    assert [short_name(CDS), short_name(NDS), short_name("x")] == ["CDS", "NDS", "x"]
