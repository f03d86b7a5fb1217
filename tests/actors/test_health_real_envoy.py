"""HealthActor beside a real Envoy, and Envoy's readiness listener that leads to it."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.messages.envoy import EpochExited, EpochStarted
from tests.actors.test_health import Health
from tests.support.http_peer import closed_port
from tests.support.real_envoy import envoy_path
from tests.support.status_client import get

pytestmark = pytest.mark.envoy

EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def bootstrap(folder: Path, admin_port: int, ready_port: int, status_port: int) -> Path:
    """Write a bootstrap whose CDS and LDS are files, so that both count as accepted."""
    route = {"match": {"path": "/healthz/ready"}, "route": {"cluster": "agent"}}
    manager = {
        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "agent",
        "route_config": {"virtual_hosts": [{"name": "b", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"address": address(ready_port), "filter_chains": [{"filters": filters}]}
    endpoint = {"endpoint": {"address": address(status_port)}}
    cluster = {
        "name": "agent",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "agent", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    for name in ("cds", "lds"):
        (folder / f"{name}.json").write_text(json.dumps({"version_info": "1", "resources": []}))
    document = {
        "node": {"id": "n", "cluster": "c"},
        "admin": {"address": address(admin_port)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
        "dynamic_resources": {
            f"{name}_config": {
                "path_config_source": {"path": str(folder / f"{name}.json")},
                "resource_api_version": "V3",
            }
            for name in ("cds", "lds")
        },
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def health() -> Iterator[Health]:
    made = Health()
    yield made
    made.close()


def test_a_real_envoy_becomes_ready_and_its_readiness_listener_leads_here(
    health: Health, tmp_path: Path
) -> None:
    admin_port, ready_port = closed_port(), closed_port()
    config = bootstrap(tmp_path, admin_port, ready_port, health.port)
    health.start()
    arguments = [
        str(envoy_path()),
        "-c",
        str(config),
        "--disable-hot-restart",
        "-l",
        "error",
        "--concurrency",
        "1",
    ]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        try:
            health.tell(EpochStarted(generation=1, epoch=0, pid=process.pid, admin_port=admin_port))
            deadline = time.monotonic() + 20
            while health.ready() != 200:
                assert process.poll() is None
                assert time.monotonic() < deadline
            assert get(ready_port, "/healthz/ready").status == 200
            health.crash()
            health.start()
            assert get(ready_port, "/healthz/ready").status == 200, "through Envoy, after a restart"
        finally:
            process.kill()
    health.tell(EpochExited(generation=1, epoch=0, status="signal: killed"))
    assert health.ready() == 503
