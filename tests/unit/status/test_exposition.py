"""Prometheus' text format, number by number and line by line."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pilot_agent.status.catalogue import FAMILIES
from pilot_agent.status.exposition import Sample, go_float, render, series


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (-1, "-1"),
        (0.5, "0.5"),
        (62583, "62583"),
        (100000, "100000"),
        (999999, "999999"),
        (1000000, "1e+06"),
        (1419210, "1.41921e+06"),
        (39313408, "3.9313408e+07"),
        (86389.245786597, "86389.245786597"),
        (1795392070.31, "1.79539207031e+09"),
        (0.236076875, "0.236076875"),
        (0.0001, "0.0001"),
        (0.00009, "9e-05"),
        (9.1542e-05, "9.1542e-05"),
        (float(1 << 64), "1.8446744073709552e+19"),
        (1e100, "1e+100"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers_are_written_as_go_writes_them(value: float, text: str) -> None:
    assert go_float(value) == text


def test_families_are_sorted_and_have_help_and_type_and_equal_series_are_added() -> None:
    page = render(
        [
            Sample(series="xds_proxy_requests", value=8),
            Sample(series='num_outgoing_requests{request_type="csr"}', value=1),
            Sample(series="xds_proxy_requests", value=2),
            Sample(series="something_new", value=3),
        ]
    )
    assert page.decode().splitlines() == [
        (
            "# HELP istio_agent_num_outgoing_requests Number of total outgoing requests"
            " (e.g. to a token exchange server, CA, etc.)"
        ),
        "# TYPE istio_agent_num_outgoing_requests counter",
        'istio_agent_num_outgoing_requests{request_type="csr"} 1',
        "# TYPE istio_agent_something_new untyped",
        "istio_agent_something_new 3",
        "# HELP istio_agent_xds_proxy_requests The total number of Xds Proxy Requests",
        "# TYPE istio_agent_xds_proxy_requests counter",
        "istio_agent_xds_proxy_requests 10",
    ]


def test_a_histogram_is_one_family_with_its_buckets_in_order() -> None:
    name = "dns_upstream_request_duration_seconds"
    parts = [(f'{name}_bucket{{le="{le}"}}', n) for n, le in enumerate(("0.005", "0.01", "5", "+Inf"))]
    samples = [Sample(series=f"{name}_count", value=3), *(Sample(series=s, value=v) for s, v in parts)]
    lines = render([*samples, Sample(series=f"{name}_sum", value=0.5)]).decode().splitlines()
    assert lines[1] == f"# TYPE istio_agent_{name} histogram"
    assert [line.removeprefix(f"istio_agent_{name}") for line in lines[2:]] == [
        '_bucket{le="0.005"} 0',
        '_bucket{le="0.01"} 1',
        '_bucket{le="5"} 2',
        '_bucket{le="+Inf"} 3',
        "_sum 0.5",
        "_count 3",
    ]


def test_label_values_are_escaped() -> None:
    assert series("a", b='x"y\\z\n', a="1") == 'a{a="1",b="x\\"y\\\\z\\n"}'


def test_an_independent_parser_reads_the_page() -> None:
    page = render(
        [
            Sample(series='scrape_failures_total{type="envoy"}', value=2),
            Sample(series="scrapes_total", value=7),
        ]
    )
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    assert families["istio_agent_scrapes"].samples[0].value == 7
    assert families["istio_agent_scrape_failures"].samples[0].labels == {"type": "envoy"}


def test_the_catalogue_has_texts_and_names_without_the_prefix() -> None:
    assert all(family.help and not name.startswith("istio_agent_") for name, family in FAMILIES.items())
