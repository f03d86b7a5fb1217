import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.security.options import (
    FILES_SOCKET,
    IDENTITY_DIRECTORY,
    MOUNTED_DIRECTORY,
    CaOptions,
    SecurityConfigurationError,
    SecurityOptions,
)
from pilot_agent.security.os_roots import os_bundle
from pilot_agent.security.server_name import server_name
from tests.support.small_ca import Authority

NODE = Node(role="sidecar", ip_addresses=("10.0.0.1",), id="a.b", domain="b.svc.cluster.local")
ROOT = "var/run/secrets/istio/root-cert.pem"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(ROOT, Authority().root_pem)


def write(path: str, text: str = "x") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


def build(**variables: str) -> SecurityOptions:
    return SecurityOptions.build(Environment(variables), ProxyConfig(), NODE)


def ca_of(**variables: str) -> CaOptions:
    ca = build(**variables).ca
    assert ca is not None
    return ca


def test_without_variables_istiod_signs_and_the_defaults_are_the_references() -> None:
    options = build(POD_NAMESPACE="default", SERVICE_ACCOUNT="reviews")
    assert options.ca is not None
    request = options.ca.request
    assert options.key.spiffe_id == "spiffe://cluster.local/ns/default/sa/reviews"
    assert (request.address, request.root_path) == ("istiod.istio-system.svc:15012", ROOT)
    assert request.token_path == "./var/run/secrets/tokens/istio-token"
    assert (request.validity_s, request.cert_signer, request.headers) == (86400, "", (("ClusterID", ""),))
    assert (options.grace_ratio, options.grace_ratio_jitter) == (0.5, 0.01)
    assert options.socket_path == "./var/run/secrets/workload-spiffe-uds/socket"
    assert not options.external_sds


def test_variables_reach_the_call() -> None:
    request = ca_of(
        CA_ADDR="ca.example:443",
        ISTIOD_SAN="other",
        SECRET_TTL="1h0m0.5s",
        ISTIO_META_CERT_SIGNER="signer",
        ISTIO_META_CLUSTER_ID="c1",
        CA_HEADER_Tenant="a=b",
    ).request
    assert (request.address, request.server_name, request.validity_s) == ("ca.example:443", "", 3600)
    assert request.cert_signer == "signer"
    assert request.headers == (("ClusterID", "c1"), ("Tenant", "a=b"))


def test_istiods_san_counts_when_the_discovery_address_is_the_ca() -> None:
    assert ca_of(ISTIOD_SAN="other").request.server_name == "other"


def test_port_15010_is_plaintext_and_needs_no_root() -> None:
    Path(ROOT).unlink()
    request = ca_of(CA_ADDR="istiod:15010").request
    assert request.plaintext
    assert request.root_path == ""


def test_the_root_file_is_chosen_in_the_references_order() -> None:
    root = Path(ROOT).read_text()
    own, custom, provisioned = (
        write(p, root) for p in ("own.pem", "etc/certs/root-cert.pem", "prov/root-cert.pem")
    )
    assert ca_of(CA_ROOT_CA=own, PILOT_CERT_PROVIDER="custom").request.root_path == own
    assert ca_of(PILOT_CERT_PROVIDER="custom", PROV_CERT="prov").request.root_path == f"./{custom}"
    request = ca_of(PROV_CERT="prov").request
    assert request.root_path == provisioned
    assert (request.client_cert_path, request.client_key_path) == ("prov/cert-chain.pem", "prov/key.pem")


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"CA_ROOT_CA": "gone.pem"}, "root CA file for CA does not exist gone.pem"),
        ({"CA_ROOT_CA": "broken.pem"}, "root CA file for CA broken.pem contains no PEM certificate"),
        ({"PROV_CERT": "nowhere"}, "root CA file for CA does not exist nowhere/root-cert.pem"),
        ({"PILOT_CERT_PROVIDER": "none"}, "root CA file for CA required but configured provider as none"),
        ({"CA_PROVIDER": "Other"}, 'CA provider "Other" not registered'),
        ({"CA_ADDR": "meshca.googleapis.com:443"}, 'CA provider "GoogleCA" not registered'),
        (
            {"CA_PROVIDER": "GkeWorkloadCertificate"},
            "GKE workload certificate files could not be found in ./var",
        ),
        (
            {"PROV_CERT": "x", "FILE_MOUNTED_CERTS": "true"},
            "PROV_CERT and FILE_MOUNTED_CERTS are mutually exclusive",
        ),
        ({"CREDENTIAL_FETCHER_TYPE": "Magic"}, "invalid credential fetcher type Magic"),
        (
            {"WORKLOAD_IDENTITY_SOCKET_FILE": "a/b"},
            "workload identity socket file override must be a filename, not a path: a/b",
        ),
        (
            {"WORKLOAD_IDENTITY_SOCKET_FILE": "spire"},
            "agent configured for non-default SDS socket path: .* no socket",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_work_is_said_at_the_start(variables: dict[str, str], text: str) -> None:
    write("broken.pem", "nothing")
    with pytest.raises(SecurityConfigurationError, match=text):
        build(**variables)


def test_a_missing_root_is_an_error_with_the_references_text() -> None:
    Path(ROOT).unlink()
    with pytest.raises(ValueError, match=f"^root CA file for CA does not exist {ROOT}$"):
        build()


def test_files_alone_need_no_ca() -> None:
    Path(ROOT).unlink()
    assert build(FILE_MOUNTED_CERTS="true").ca is None
    for name in ("cert-chain", "key", "root-cert"):
        write(f"{MOUNTED_DIRECTORY}/{name}.pem")
    mounted = build()
    assert mounted.ca is None
    assert mounted.files.key_path == f"{MOUNTED_DIRECTORY}/key.pem"


@pytest.fixture
def somebody_serves() -> Iterator[None]:
    Path(IDENTITY_DIRECTORY).mkdir(parents=True)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{IDENTITY_DIRECTORY}/spire")
    server.start()
    yield
    server.stop(None).wait()


@pytest.mark.usefixtures("somebody_serves")
def test_an_sds_server_of_somebody_else_is_left_in_charge() -> None:
    options = build(WORKLOAD_IDENTITY_SOCKET_FILE="spire")
    assert options.external_sds
    assert options.ca is None
    assert options.socket_path == FILES_SOCKET


def test_a_listener_that_does_not_speak_grpc_is_no_sds_server() -> None:
    Path(IDENTITY_DIRECTORY).mkdir(parents=True)
    path = f"{IDENTITY_DIRECTORY}/socket"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        assert not build().external_sds
    assert not os.path.lexists(path)


def test_a_version_that_follows_another_touches_no_socket_and_goes_by_what_that_one_found() -> None:
    Path(IDENTITY_DIRECTORY).mkdir(parents=True)
    path = f"{IDENTITY_DIRECTORY}/socket"
    with socket.socket(socket.AF_UNIX) as busy:  # as that of the version before may be in this moment
        busy.bind(path)
        busy.listen()
        for found in (False, True):
            options = SecurityOptions.build(Environment({}), ProxyConfig(), NODE, external_sds=found)
            assert options.external_sds == found
            assert options.socket_path == (FILES_SOCKET if found else path)
            assert os.path.lexists(path)


def test_where_no_socket_is_nothing_needs_to_be_removed_or_writable() -> None:
    Path(IDENTITY_DIRECTORY).parent.mkdir(parents=True, exist_ok=True)
    Path(IDENTITY_DIRECTORY).write_text("no directory")
    assert not build().external_sds


def test_a_dead_socket_of_a_former_container_is_removed() -> None:
    Path(IDENTITY_DIRECTORY).mkdir(parents=True)
    path = f"{IDENTITY_DIRECTORY}/socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert not build().external_sds
    assert not os.path.lexists(path)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "info\tJWT policy is third-party-jwt"),
        ({"JWT_POLICY": "first-party-jwt"}, "warn\tUsing deprecated JWT policy"),
        ({"JWT_POLICY": "x"}, "info\tUsing existing certs"),
        ({"TRUST_DOMAIN": "td"}, "info\tusing credential fetcher of JWT type in td trust domain"),
    ],
)
def test_the_start_lines_name_policy_and_trust_domain(
    variables: dict[str, str], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    build(**variables).log_start()
    assert line in capfd.readouterr().out


@pytest.mark.parametrize(
    ("address", "override", "name"),
    [
        ("istiod.istio-system.svc:15012", "", "istiod.istio-system.svc"),
        ("localhost:15012", "", "istiod.istio-system.svc"),
        ("istiod:15012", "other", "other"),
        ("istiod", "", ""),
        ("[::1]:15012", "", "::1"),
    ],
)
def test_the_tls_server_name_follows_the_address(address: str, override: str, name: str) -> None:
    assert server_name(address, override) == name


def test_the_first_bundle_of_the_system_that_exists_counts() -> None:
    write("second.pem")
    assert os_bundle(("first.pem", "second.pem")) == "second.pem"
    assert os_bundle(("first.pem",)) == ""


def test_the_identity_is_kept_beside_the_configuration_unless_that_is_off() -> None:
    assert build().kept_directory == "./etc/istio/proxy"
    assert build(IDENTITY_LAST_KNOWN_GOOD="off").kept_directory == ""
    environment = Environment({"IDENTITY_LAST_KNOWN_GOOD": "perhaps"})
    assert SecurityOptions.build(environment, ProxyConfig(), NODE).kept_directory == "./etc/istio/proxy"
    assert "`perhaps` for IDENTITY_LAST_KNOWN_GOOD, using default auto" in environment.warnings[0]


def test_what_the_environment_says_of_the_workload_is_what_a_certificate_must_be_for() -> None:
    asked = build(POD_NAMESPACE="default", SERVICE_ACCOUNT="reviews").ca
    assert asked is not None
    assert asked.request.workload == "/ns/default/sa/reviews"
    half = build(POD_NAMESPACE="default").ca
    assert half is not None
    assert half.request.workload == ""


def test_an_instance_of_google_gets_its_token_from_the_metadata_server() -> None:
    asked = build(CREDENTIAL_FETCHER_TYPE="GoogleComputeEngine", TRUST_DOMAIN="td").ca
    assert asked is not None
    assert (asked.request.token_audience, asked.request.metadata_host) == ("td", "169.254.169.254")
    own = build(CREDENTIAL_FETCHER_TYPE="GoogleComputeEngine", GCE_METADATA_HOST="127.0.0.1:1").ca
    assert own is not None
    assert own.request.metadata_host == "127.0.0.1:1"
