"""Node metadata, cluster and locality: what the recorded runs do not show."""

import json
from pathlib import Path
from typing import Any

import pytest

from pilot_agent.bootstrap import BootstrapError, BootstrapOptions, Platform
from pilot_agent.bootstrap.identity import cluster_name, locality, locality_label
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import ProxyFlags, load


def options(variables: dict[str, str], *, platform: Platform | None = None) -> BootstrapOptions:
    environment = Environment({"CLOUD_PLATFORM": "none"} | variables)
    folder = Path("/nonexistent")
    loaded = load(environment, ProxyFlags(), folder, read_interfaces=lambda: {"eth0": ("10.0.0.7",)})
    return BootstrapOptions.build(environment, loaded, working_dir=folder, platform=platform)


def metadata(variables: dict[str, str], *, platform: Platform | None = None) -> Any:
    return json.loads(json.dumps(options(variables, platform=platform).metadata))


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (
            {"ISTIO_META_DNS_CAPTURE": "maybe"},
            'metadata member DNS_CAPTURE: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        ({"ISTIO_META_ENVOY_STATUS_PORT": "15021"}, "ENVOY_STATUS_PORT: expected an integer, got '15021'"),
        ({"ISTIO_METAJSON_X": '{"DNS_CAPTURE": true}'}, "DNS_CAPTURE: expected a text, got True"),
        ({"ISTIO_META_POD_PORTS": "8080"}, "POD_PORTS"),
        ({"ISTIO_METAJSON_X": '{"LABELS": ["a"]}'}, "LABELS: expected an object of texts, got ['a']"),
    ],
    ids=["no-bool", "text-for-an-integer", "json-bool-for-a-text-bool", "ports-that-are-no-list", "labels"],
)
def test_a_member_that_does_not_fit_its_type_ends_the_agent(variables: dict[str, str], reason: str) -> None:
    with pytest.raises(BootstrapError) as error:
        options(variables)

    prefix = "failed to initialize envoy agent: failed to generate bootstrap metadata: metadata member "
    assert str(error.value).startswith(prefix)
    assert reason in str(error.value)


def test_false_switches_stay_as_they_were_given_and_true_ones_are_normalised() -> None:
    got = metadata({"ISTIO_META_DNS_CAPTURE": "T", "ISTIO_META_ENABLE_HBONE": "0"})

    assert (got["DNS_CAPTURE"], got["ENABLE_HBONE"], got["METADATA_DISCOVERY"]) == ("true", "0", "false")


def test_metadata_discovery_follows_hbone_unless_it_is_set() -> None:
    assert metadata({"ISTIO_META_ENABLE_HBONE": "true"})["METADATA_DISCOVERY"] == "true"
    off = {"ISTIO_META_ENABLE_HBONE": "true", "PEER_METADATA_DISCOVERY": "false"}
    assert metadata(off)["METADATA_DISCOVERY"] == "false"


def test_the_environment_beats_proxy_metadata_and_json_beats_both() -> None:
    config = {"proxyMetadata": {"ISTIO_META_A": "config", "ISTIO_META_B": "config", "OTHER": "x"}}
    got = metadata(
        {
            "PROXY_CONFIG": json.dumps(config),
            "ISTIO_META_B": "environment",
            "ISTIO_META_C": "environment",
            "ISTIO_METAJSON_ANY": '{"C": {"deep": 1}}',
        }
    )

    assert (got["A"], got["B"], got["C"]) == ("config", "environment", {"deep": 1})
    assert "OTHER" not in got


def test_json_that_is_no_object_is_left_out_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    got = metadata({"ISTIO_METAJSON_X": "[1]", "ISTIO_METAJSON_LABELS": '{"app": 1}'})

    assert "LABELS" not in got
    assert capfd.readouterr().out.count("failed json unmarshal") == 2


def test_an_agent_s_own_value_replaces_what_the_environment_says() -> None:
    got = metadata({"ISTIO_META_NAME": "other", "POD_NAME": "web-1", "ISTIO_META_ISTIO_VERSION": "1.30"})

    assert (got["NAME"], got["ISTIO_VERSION"]) == ("web-1", "1.30")


def test_a_platform_gives_metadata_locality_and_outside_kubernetes_labels() -> None:
    platform = Platform(
        name="GCP",
        metadata={"gcp_project": "p"},
        locality={"region": "europe-west1", "zone": "europe-west1-b"},
        labels={"team": "a"},
        kubernetes=False,
    )

    made = options({}, platform=platform)

    assert made.metadata["PLATFORM_METADATA"] == {"gcp_project": "p"}
    assert made.metadata["STATIC_LABELS"] == {"team": "a"}
    assert made.locality == {"region": "europe-west1", "zone": "europe-west1-b"}


@pytest.mark.parametrize(
    ("config", "labels", "workload", "namespace", "want"),
    [
        ({"serviceCluster": "mine"}, {"app": "web"}, "wl", "shop", "mine"),
        ({"serviceCluster": "istio-proxy"}, {"app": "web"}, "wl", "shop", "web.shop"),
        ({"serviceCluster": "istio-proxy"}, {}, "wl", "shop", "wl.shop"),
        ({"serviceCluster": "istio-proxy"}, {}, "", "shop", "istio-proxy.shop"),
        ({"serviceCluster": "istio-proxy"}, {}, "", "", "istio-proxy"),
        ({"tracingServiceName": "CANONICAL_NAME_ONLY"}, {"app": "web"}, "wl", "shop", "web"),
        (
            {"tracingServiceName": "CANONICAL_NAME_AND_NAMESPACE"},
            {"app": "web", "service.istio.io/canonical-name": "canon"},
            "wl",
            "shop",
            "canon.shop",
        ),
        ({"tracingServiceName": "APP_LABEL_AND_NAMESPACE"}, {"app": "web"}, "wl", "shop", "web.shop"),
        ({"tracingServiceName": "CANONICAL_NAME_AND_NAMESPACE"}, {}, "", "shop", "istio-proxy.shop"),
    ],
)
def test_the_cluster_s_name_comes_from_the_first_source_that_has_one(
    config: dict[str, str], labels: dict[str, str], workload: str, namespace: str, want: str
) -> None:
    assert cluster_name(config, labels, workload, namespace) == want


def test_a_locality_label_may_be_written_with_dots() -> None:
    assert locality_label({"istio-locality": "r.z.s"}) == "r/z/s"
    assert locality_label({"istio-locality": "r/z.1"}) == "r/z.1"
    assert locality_label({"istio-locality": "x", "topology.istio.io/locality": "r"}) == "r"
    assert locality("r//s/extra", {"region": "cloud"}) == {"region": "r", "sub_zone": "s"}
    assert locality("", {"region": "cloud", "zone": ""}) == {"region": "cloud"}
