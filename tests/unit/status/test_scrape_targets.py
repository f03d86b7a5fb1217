"""`ISTIO_PROMETHEUS_ANNOTATIONS`: where the application's metrics are, and what ends the start."""

import json

import pytest

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.status.metrics.targets import ScrapeTarget, ScrapeTargetError, parse_targets
from pilot_agent.status.options import StatusOptions

RESERVED = (15000, 15001, 15004, 15006, 15008, 15021, 15053, 15090)


def targets(**annotations: object) -> tuple[ScrapeTarget, ...]:
    return parse_targets(json.dumps(annotations), 15020)


def at(port: int, path: str = "/metrics") -> ScrapeTarget:
    return ScrapeTarget(port=port, path=path)


def test_the_single_form_has_defaults() -> None:
    assert targets() == (at(80),)
    assert targets(scrape="true", path="/m", port="8080") == (at(8080, "/m"),)
    assert targets(Scrape="true", PORT="08080") == (at(8080),)
    assert targets(port=None, path=None) == (at(80),)


def test_targets_are_kept_in_order_beside_the_single_form() -> None:
    several = [{"port": "9090", "path": "/b"}, {"port": "8080"}]
    assert targets(targets=several) == (at(9090, "/b"), at(8080))
    assert targets(port="7070", targets=several) == (at(9090, "/b"), at(8080))
    assert targets(port="7070", targets=[]) == (at(7070),)


def test_switched_off_nothing_is_looked_at() -> None:
    assert targets(scrape="false", port="15020") == ()
    assert parse_targets("", 15020) == ()
    assert targets(scrape="no") == (at(80),)


@pytest.mark.parametrize(
    ("annotations", "complaint"),
    [
        ({"port": "15020"}, "application port is the same as agent port, which may lead to a recursive loop"),
        ({"port": "015020"}, "application port is the same as agent port"),
        ({"targets": [{"port": "8080"}, {"port": "15090"}]}, "target port 15090 is reserved for Istio"),
        ({"targets": [{"path": "/x"}]}, 'invalid target port ""'),
        ({"port": "http"}, 'invalid target port "http"'),
        ({"port": "0"}, 'invalid target port "0"'),
        ({"port": "65536"}, 'invalid target port "65536"'),
        ({"port": 8080}, "failed to unmarshal ISTIO_PROMETHEUS_ANNOTATIONS: "),
        *(({"port": str(port)}, f"target port {port} is reserved for Istio (") for port in RESERVED),
    ],
)
def test_what_cannot_be_scraped_ends_the_start(annotations: dict[str, object], complaint: str) -> None:
    with pytest.raises(ScrapeTargetError) as refused:
        targets(**annotations)
    assert complaint in str(refused.value)


def test_no_json_ends_the_start() -> None:
    with pytest.raises(ScrapeTargetError, match="failed to unmarshal"):
        parse_targets("{", 15020)


@pytest.mark.parametrize("port", [8080, 9090, 3000, 15010, 15091])
def test_other_ports_are_taken(port: int) -> None:
    assert targets(port=str(port)) == (at(port),)


def build(role: str, **variables: str) -> StatusOptions:
    node = Node(role=role, ip_addresses=("10.0.0.7",), id="a.b", domain="d")
    return StatusOptions.build(Environment(variables), ProxyConfig(), node)


def test_a_router_ignores_the_annotation_even_a_wrong_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert build("router", ISTIO_PROMETHEUS_ANNOTATIONS="{").scrape_targets == ()
    options = build("sidecar", ISTIO_PROMETHEUS_ANNOTATIONS='{"port": "9000"}')
    assert options.scrape_targets == (at(9000),)
    assert "info\tPrometheus scraping configuration: 9000/metrics\n" in capfd.readouterr().out


def test_probes_go_to_the_pods_own_address() -> None:
    assert build("sidecar").app_host == "localhost"
    assert build("sidecar", INSTANCE_IP="10.0.0.7").app_host == "10.0.0.7"
    legacy = build("sidecar", INSTANCE_IP="10.0.0.7", REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION="true")
    assert legacy.app_host == "localhost"
    six = build("sidecar", INSTANCE_IP="2001:db8::1")
    assert (six.app_host, six.app_source_address) == ("2001:db8::1", "::6")
    assert build("sidecar", ISTIO_ENABLE_HTTP2_PROBING="false").app_http2 is False
