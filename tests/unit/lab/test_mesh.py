"""The lab's YAML: what it says, and how a mistake in it is told."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lab.bookinfo import Bookinfo, caller_of
from lab.mesh import BOOKINFO, Address, MeshError, load_mesh
from lab.resources import build_snapshot
from lab.snapshot import LDS, RDS
from tests.support.real_envoy import PortMap


def test_bookinfo_has_the_gateway_and_the_split_that_istio_shows() -> None:
    mesh = load_mesh()
    assert mesh.gateway.port == 8080
    assert mesh.service("reviews").split == (("v1", 50), ("v3", 50))
    assert list(build_snapshot(mesh, "router").of_type(RDS)) == ["http.8080"]
    assert list(build_snapshot(mesh, "sidecar").of_type(RDS)) == ["9080"]


def test_other_ports_move_listeners_and_keep_the_names_of_routes() -> None:
    moved = load_mesh().with_ports(lambda port: port + 10_000)
    assert list(build_snapshot(moved, "router").of_type(LDS)) == ["127.0.0.1_18080"]
    assert list(build_snapshot(moved, "router").of_type(RDS)) == ["http.8080"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("split: {v1: 50, v3: 50}", "split: {v9: 100}", "['v9']"),
        ("to: reviews", "to: opinions", "opinions"),
        ("listen: 127.0.0.1:8080", "listen: 8080", "host:port"),
        ("exact: /login", "regex: /login", "regex"),
        ("trust_domain: cluster.local", "", "trust_domain"),
        ("services:", "services: [", "mesh.yaml"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(BOOKINFO.read_text().replace(old, new))
    with pytest.raises(MeshError) as caught:
        load_mesh(path)
    assert told in str(caught.value)


def test_a_directory_is_read_as_one_and_nothing_may_stand_twice(tmp_path: Path) -> None:
    head, services = BOOKINFO.read_text().split("services:")
    (tmp_path / "1.yaml").write_text(head)
    (tmp_path / "2.yaml").write_text("services:" + services)
    assert load_mesh(tmp_path) == load_mesh()
    (tmp_path / "3.yaml").write_text("trust_domain: other")
    with pytest.raises(MeshError, match=r"3\.yaml: \['trust_domain'\] stand in another file too"):
        load_mesh(tmp_path)


def test_an_application_says_which_neighbour_did_not_answer() -> None:
    mesh = load_mesh().with_ports(PortMap())
    page = mesh.service("productpage").workloads[0].application
    with Bookinfo(mesh):
        with urllib.request.urlopen(f"http://{page}/health", timeout=5) as answer:
            assert json.load(answer) == {"status": "healthy"}
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{page}/api/v1/products/0/reviews", timeout=5)
        assert caught.value.code == 502
        assert b"reviews: ConnectionRefusedError" in caught.value.read()
        caught.value.close()


def test_a_taken_port_is_named() -> None:
    mesh = load_mesh().with_ports(PortMap())
    with Bookinfo(mesh), pytest.raises(OSError, match=f"{mesh.services[0].workloads[0].application}"):
        Bookinfo(mesh).start()


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        ("", "none"),
        ('By=spiffe://a;Hash=ab;Subject="";URI=spiffe://b', "spiffe://b"),
        ("URI=spiffe://first,By=x;URI=spiffe://last", "spiffe://last"),
    ],
)
def test_the_caller_is_the_last_hop_of_the_client_certificate_header(header: str, caller: str) -> None:
    assert caller_of(header) == caller


def test_an_address_is_a_host_and_a_port() -> None:
    assert str(Address.parse("127.0.0.1:80")) == "127.0.0.1:80"
