"""Cloud platforms, with a small metadata server in the clouds' place."""

import json
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import pytest

from pilot_agent.bootstrap import discover
from pilot_agent.bootstrap.grpc_socket import speaks_http2
from pilot_agent.bootstrap.platform.metadata_server import MetadataServer
from pilot_agent.environment import Environment


class FakeMetadataServer:
    """Answers `METHOD /path` from a table, 404 for all else; keeps what it was asked."""

    def __init__(self, answers: Mapping[str, str], header: str = "Server: test") -> None:
        self._answers, self._header = answers, header
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(4096)
                head = request.decode()
                self.asked.append(head)
                body = self._answers.get(" ".join(head.split(" ", 2)[:2]))
                status = "404 Not Found" if body is None else "200 OK"
                answer = f"HTTP/1.0 {status}\r\n{self._header}\r\n\r\n{body or 'no'}"
                connection.sendall(answer.encode())


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root directory whose /sys says nothing."""
    (tmp_path / "sys/class/dmi/id").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    return tmp_path


def dmi(root: Path, name: str, text: str) -> None:
    (root / "sys/class/dmi/id" / name).write_text(text, encoding="utf-8")


AWS = {
    "PUT /latest/api/token": "tok",
    "GET /latest/meta-data/placement/region": "eu-west-1",
    "GET /latest/meta-data/placement/availability-zone": "eu-west-1b",
    "GET /latest/meta-data/instance-id": "i-1",
}


def test_a_machine_of_ec2_is_asked_with_a_token(machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dmi(machine, "product_uuid", "EC2E1916-9099")
    with FakeMetadataServer(AWS) as server:
        found = discover(Environment({}), root=machine, server_address=server.address)

    assert found.metadata == {
        "aws_region": "eu-west-1",
        "aws_availability_zone": "eu-west-1b",
        "aws_instance_id": "i-1",
    }
    assert found.locality == {"region": "eu-west-1", "zone": "eu-west-1b"}
    assert "X-aws-ec2-metadata-token: tok" in server.asked[-1]
    assert "platform detected is AWS" in capfd.readouterr().out


def test_a_named_platform_is_not_looked_for(machine: Path) -> None:
    with FakeMetadataServer(AWS) as server:
        found = discover(Environment({"CLOUD_PLATFORM": "AWS"}), root=machine, server_address=server.address)

    assert found.metadata["aws_instance_id"] == "i-1"


@pytest.mark.parametrize(
    "tags",
    [
        {"tagsList": [{"name": "Team", "value": "a:b"}], "tags": "Other:c"},
        {"tags": "Team:a:b"},
    ],
    ids=["list", "text"],
)
def test_azure_is_asked_in_its_newest_version(machine: Path, tags: dict[str, object]) -> None:
    dmi(machine, "sys_vendor", "Microsoft Corporation\n")
    compute = {"name": "vm", "location": "westeurope", "zone": "2", "vmId": "7", **tags}
    answers = {
        "GET /metadata/instance": json.dumps({"newest-versions": ["2018-02-01", "2021-02-01"]}),
        "GET /metadata/instance?api-version=2021-02-01": json.dumps({"compute": compute}),
    }
    with FakeMetadataServer(answers) as server:
        found = discover(Environment({}), root=machine, server_address=server.address)

    assert found.metadata == {
        "azure_name": "vm",
        "azure_location": "westeurope",
        "azure_vmId": "7",
        "azure_Team": "a:b",
    }
    assert found.locality == {"region": "westeurope", "zone": "2"}


def test_static_gcp_metadata_keep_the_metadata_server_out(machine: Path) -> None:
    variables = {
        "GCP_METADATA": "proj|42|clus|europe-west1",
        "GCP_QUOTA_PROJECT": "quota",
        "GCP_ZONE": "europe-west1-b",
    }
    with FakeMetadataServer({}) as server:
        found = discover(Environment(variables), root=machine, server_address=server.address)

    assert server.asked == []
    assert found.metadata == {
        "gcp_project": "proj",
        "gcp_project_number": "42",
        "gcp_gke_cluster_name": "clus",
        "gcp_location": "europe-west1",
        "gcp_quota_project": "quota",
        "gcp_zone": "europe-west1-b",
        "gcp_gke_cluster_url": (
            "https://container.googleapis.com/v1/projects/proj/locations/europe-west1/clusters/clus"
        ),
    }
    assert found.locality == {"region": "europe-west1", "zone": "europe-west1-b"}


def test_google_is_known_by_the_header_of_its_server(machine: Path) -> None:
    answers = {
        "GET /computeMetadata/v1/project/project-id": "proj",
        "GET /computeMetadata/v1/instance/name": "vm-1",
        "GET /computeMetadata/v1/instance/zone": "projects/42/zones/us-central1-a",
    }
    with FakeMetadataServer(answers, "Metadata-Flavor: Google") as server:
        found = discover(Environment({}), root=machine, server_address=server.address)

    assert found.metadata == {
        "gcp_project": "proj",
        "gcp_gce_instance": "vm-1",
        "gcp_location": "us-central1-a",
    }
    assert (found.kubernetes, found.locality["region"]) == (False, "us-central1")


def test_the_zone_may_stand_in_the_resolver_s_search_list(machine: Path) -> None:
    (machine / "etc/resolv.conf").write_text(
        "nameserver 1.1.1.1\nsearch us-east1-c.c.proj.internal google.internal\n", encoding="utf-8"
    )
    variables = {"CLOUD_PLATFORM": "gcp", "GCP_METADATA": "p|1|c|us-east1", "KUBERNETES_SERVICE_HOST": ""}

    found = discover(Environment(variables), root=machine)

    assert found.locality == {"region": "us-east1", "zone": "us-east1-c"}
    assert found.kubernetes


def test_where_nobody_answers_there_is_no_platform_at_once(machine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    begun = time.monotonic()

    found = discover(Environment({}), root=machine, server_address=(address[0], address[1]))

    assert found.name == "none"
    assert time.monotonic() - begun < 0.2


def test_a_server_that_takes_the_question_and_is_silent_costs_a_quarter_of_a_second(machine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        begun = time.monotonic()
        found = discover(Environment({"CLOUD_PLATFORM": "x"}), root=machine, server_address=(host, port))

    assert found.name == "none"
    assert 0.2 < time.monotonic() - begun < 1.5


def test_an_answer_that_is_no_http_is_no_text() -> None:
    with FakeMetadataServer({"GET /x": "y"}) as server:
        asked = MetadataServer(*server.address, timeout_s=5.0)
        assert asked.text("/x", {}) == "y"
        assert asked.text("/z", {}) == ""


def test_a_grpc_server_on_a_unix_socket_is_told_from_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        assert speaks_http2(path, timeout_s=5.0)
    finally:
        server.stop(None).wait(10)
    assert not speaks_http2(tmp_path / "absent")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        assert not speaks_http2(tmp_path / "silent", timeout_s=0.1)
