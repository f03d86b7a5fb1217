"""What the xDS path reads at start: addresses, roots, names, headers; and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.xds import roots
from pilot_agent.xds.options import XdsOptions
from tests.support.small_ca import Authority

NODE = Node(role="sidecar", ip_addresses=("10.0.0.1",), id="pod.ns", domain="ns.svc.cluster.local")
ROOT_PEM = Authority().root_pem


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place(path: Path, text: str = ROOT_PEM) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def build(variables: dict[str, str], node: Node = NODE, **config: Any) -> XdsOptions:
    return XdsOptions.build(Environment(variables), ProxyConfig(**config), node)


def test_the_defaults_are_those_of_the_reference(home: Path) -> None:
    place(home / "var/run/secrets/istio/root-cert.pem")
    options = build({"ISTIO_META_CLUSTER_ID": "Kubernetes"})
    assert options.socket_path == "etc/istio/proxy/XDS"
    assert options.upstream_address == "istiod.istio-system.svc:15012"
    assert (options.server_name, options.cluster_id) == ("istiod.istio-system.svc", "Kubernetes")
    assert options.root_path == "var/run/secrets/istio/root-cert.pem"
    assert options.root_pem == ROOT_PEM.encode()
    assert (options.keepalive_interval_s, options.keepalive_timeout_s) == (30.0, 10.0)
    assert (options.receive_limit_bytes, options.is_plaintext) == (4 << 20, False)
    assert (options.wants_name_table, options.wants_trust_bundle) == (False, False)
    assert options.headers == ()


def test_only_the_policy_none_means_plaintext_and_then_no_root_is_needed(home: Path) -> None:
    options = build({}, control_plane_auth_policy="NONE", discovery_address="istiod:15010")
    assert (options.is_plaintext, options.root_path) == (True, "")
    with pytest.raises(roots.XdsRootError):
        build({}, discovery_address="istiod:15010")


def test_keepalives_and_limits_come_from_the_references_variables(home: Path) -> None:
    variables = {
        "GRPC_KEEPALIVE_INTERVAL": "1m",
        "GRPC_KEEPALIVE_TIMEOUT": "2500ms",
        "ISTIO_GPRC_MAXRECVMSGSIZE": "1000",
        "ISTIO_GPRC_MAXSTREAMS": "7",
        "XDS_MAX_MESSAGE_BYTES": "2000",
        "PROXY_CONFIG_XDS_AGENT": "true",
    }
    options = build(variables, control_plane_auth_policy="NONE")
    assert (options.keepalive_interval_s, options.keepalive_timeout_s) == (60.0, 2.5)
    assert (options.receive_limit_bytes, options.streams_limit) == (1000, 7)
    assert options.message_limit_bytes == 2000
    assert options.wants_trust_bundle
    assert build({}, control_plane_auth_policy="NONE").streams_limit == 100


@pytest.mark.parametrize(
    ("text", "limit"), [("", 128 << 20), ("0", 128 << 20), ("-1", 128 << 20), ("9999999999", (1 << 31) - 1)]
)
def test_a_limit_of_messages_that_makes_no_sense_is_none(text: str, limit: int) -> None:
    options = build({"XDS_MAX_MESSAGE_BYTES": text}, control_plane_auth_policy="NONE")
    assert options.message_limit_bytes == limit


def test_the_token_is_the_files_but_for_the_fetcher_mock(home: Path) -> None:
    def token(**variables: str) -> tuple[str, str]:
        options = build(variables, control_plane_auth_policy="NONE")
        return options.token, options.token_path

    path = "./var/run/secrets/tokens/istio-token"
    assert token() == token(CREDENTIAL_FETCHER_TYPE="JWT", JWT_POLICY="first-party-jwt") == ("", path)
    assert token(CREDENTIAL_FETCHER_TYPE="Mock") == ("test_token", path)


def test_headers_come_from_the_environment_with_names_in_lower_case(home: Path) -> None:
    variables = {"XDS_HEADER_Api-Key": "b=c", "XDS_HEADER_": "no name", "CA_HEADER_X": "other"}
    assert build(variables, control_plane_auth_policy="NONE").headers == (("api-key", "b=c"),)


@pytest.mark.parametrize(
    ("variables", "role", "is_wanted"),
    [
        ({"ISTIO_META_DNS_CAPTURE": "true"}, "sidecar", True),
        ({"ISTIO_META_DNS_CAPTURE": "true"}, "router", False),
        ({"ISTIO_META_ENABLE_DNS_SERVER": "true"}, "router", True),
        ({}, "sidecar", False),
    ],
)
def test_the_name_table_is_wanted_where_the_dns_server_runs(
    variables: dict[str, str], role: str, is_wanted: bool
) -> None:
    node = Node(role=role, ip_addresses=("10.0.0.1",), id="pod.ns", domain="")
    options = build(variables, node, control_plane_auth_policy="NONE")
    assert options.wants_name_table is is_wanted


@pytest.mark.parametrize(
    ("address", "san", "expected"),
    [
        ("istiod.istio-system.svc:15012", "", "istiod.istio-system.svc"),
        ("localhost:15012", "", "istiod.istio-system.svc"),
        ("10.0.0.1:15012", "istiod.other.svc", "istiod.other.svc"),
        ("no-port", "", ""),
    ],
)
def test_the_server_name_is_the_host_unless_it_is_local_or_overridden(
    home: Path, address: str, san: str, expected: str
) -> None:
    variables = {"XDS_ROOT_CA": place(home / "roots.pem")} | ({"ISTIOD_SAN": san} if san else {})
    assert build(variables, discovery_address=address).server_name == expected


def test_the_rows_of_the_root_table_are_tried_in_the_references_order(home: Path) -> None:
    default = place(home / "var/run/secrets/istio/root-cert.pem")
    metadata = {"ISTIO_META_TLS_CLIENT_ROOT_CERT": place(home / "mounted.pem")}
    variables = {"PILOT_CERT_PROVIDER": "istiod"}
    assert str(home / roots.root_path(Environment(variables), metadata)) == default
    variables["FILE_MOUNTED_CERTS"] = "true"
    assert roots.root_path(Environment(variables), metadata) == str(home / "mounted.pem")
    variables["PROV_CERT"] = "/provisioned"
    assert roots.root_path(Environment(variables), metadata) == "/provisioned/root-cert.pem"
    place(home / "etc/certs/root-cert.pem")
    assert roots.root_path(Environment(variables), metadata) == "./etc/certs/root-cert.pem"
    variables["XDS_ROOT_CA"] = default
    assert roots.root_path(Environment(variables), metadata) == default
    variables["XDS_ROOT_CA"] = "SYSTEM"
    assert roots.root_path(Environment(variables), metadata) == "SYSTEM"


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "root CA file for XDS does not exist var/run/secrets/istio/root-cert.pem"),
        ({"XDS_ROOT_CA": "/nowhere.pem"}, "root CA file for XDS does not exist /nowhere.pem"),
        ({"FILE_MOUNTED_CERTS": "true"}, "root CA file for XDS does not exist "),
        (
            {"PILOT_CERT_PROVIDER": "none"},
            "root CA file for XDS required but configured provider as none",
        ),
    ],
    ids=["default", "given", "mounted", "none"],
)
def test_a_missing_root_ends_the_start_with_the_references_text(
    home: Path, variables: dict[str, str], text: str
) -> None:
    with pytest.raises(roots.XdsRootError, match=f"^{text}$"):
        build(variables)


@pytest.mark.parametrize(
    "content",
    ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"],
    ids=["empty", "text", "no base64"],
)
def test_a_root_file_without_a_certificate_is_an_error(home: Path, content: str) -> None:
    with pytest.raises(roots.XdsRootError, match="no certificate in"):
        build({"XDS_ROOT_CA": place(home / "roots.pem", content)})


def test_one_good_certificate_makes_a_root_file_usable(home: Path) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    path = place(home / "roots.pem", broken + ROOT_PEM)
    assert build({"XDS_ROOT_CA": path}).root_pem == (broken + ROOT_PEM).encode()


def test_an_unchecked_provisioned_root_must_be_readable_all_the_same(home: Path) -> None:
    with pytest.raises(roots.XdsRootError, match=r"failed to read root CA file for XDS .*root-cert\.pem"):
        build({"PROV_CERT": str(home / "provisioned")})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("", "")),
        ({"PROV_CERT": "/p"}, ("/p/key.pem", "/p/cert-chain.pem")),
        ({"FILE_MOUNTED_CERTS": "true"}, ("/m/key", "/m/chain")),
    ],
)
def test_the_client_certificate_is_provisioned_or_mounted_or_none(
    variables: dict[str, str], expected: tuple[str, str]
) -> None:
    metadata = {"ISTIO_META_TLS_CLIENT_KEY": "/m/key", "ISTIO_META_TLS_CLIENT_CERT_CHAIN": "/m/chain"}
    assert roots.client_pair(Environment(variables), metadata) == expected


@pytest.mark.parametrize("text", ["off", "OFF", " off ", "false", "0", "disabled"])
def test_the_last_known_good_store_can_be_turned_off(text: str) -> None:
    variables = {"XDS_LAST_KNOWN_GOOD": text}
    assert build(variables, control_plane_auth_policy="NONE").last_known_good is None


@pytest.mark.parametrize("text", ["on", "true", "1", "", "perhaps"])
def test_anything_else_leaves_it_on_and_nonsense_is_warned_about(text: str) -> None:
    environment = Environment({"XDS_LAST_KNOWN_GOOD": text})
    options = XdsOptions.build(environment, ProxyConfig(control_plane_auth_policy="NONE"), NODE)
    assert options.last_known_good is not None
    assert bool(environment.warnings) == (text == "perhaps")


def test_the_store_is_bound_to_control_plane_cluster_and_account_and_its_limits_can_be_set() -> None:
    variables = {
        "ISTIO_META_CLUSTER_ID": "c",
        "SERVICE_ACCOUNT": "a",
        "XDS_LAST_KNOWN_GOOD_MAX_BYTES": "1000",
        "XDS_LAST_KNOWN_GOOD_GRACE": "250ms",
    }
    store = build(variables, control_plane_auth_policy="NONE", discovery_address="d:1").last_known_good
    assert store is not None
    assert (store.owner, store.limit_bytes, store.grace_s) == (("d:1", "c", "a"), 1000, 0.25)
