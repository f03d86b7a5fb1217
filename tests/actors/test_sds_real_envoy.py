"""A real Envoy takes its identity from SdsActor and CertActor, and a rotation without a reconnect."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from actors.cert import CertActor
from actors.messages.cert import IdentityRotated, RotateNow
from actors.runtime.roles import Role
from actors.sds import SdsActor
from tests.support.real_envoy import RealEnvoy, free_ports
from tests.support.security import SPIFFE_ID, ActorBench, security_options
from tests.support.small_ca import SmallCa, running
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    import pykka

    from tests.support.context import FakeContext

pytestmark = pytest.mark.envoy

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

SDS = {
    "resource_api_version": "V3",
    "api_config_source": {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
    },
}


def bootstrap(admin_port: int, listener_port: int) -> dict[str, Any]:  # Any: JSON
    """Return a bootstrap with one mutual-TLS listener whose secrets come over the agent's socket."""
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": SDS}],
            "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": SDS},
        },
    }
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "x",
        "cluster": "sds-grpc",
    }
    return {
        "node": {"id": "sidecar~1.2.3.4~a.b~c", "cluster": "a"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "static_resources": {
            "clusters": [
                {
                    "name": "sds-grpc",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        HTTP_OPTIONS: {
                            "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "sds-grpc",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "./uds/socket"}}}}]}
                        ],
                    },
                }
            ],
            "listeners": [
                {
                    "name": "mtls",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": listener_port}},
                    "filter_chains": [
                        {
                            "filters": [{"name": "tcp", "typed_config": proxy}],
                            "transport_socket": {"name": "tls", "typed_config": tls},
                        }
                    ],
                }
            ],
        },
    }


@pytest.fixture
def ca() -> Iterator[SmallCa]:
    with running(SmallCa()) as serving:
        yield serving


def serial_numbers(envoy: RealEnvoy) -> list[int]:
    certificates = json.loads(envoy.admin("/certs"))["certificates"]
    return [
        int(chain["serial_number"], 16) for one in certificates for chain in one.get("cert_chain", ())[:1]
    ]


def test_envoy_takes_the_identity_and_its_rotation_and_keeps_them_over_a_kill_of_either_actor(
    tmp_path: Path, ca: SmallCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = security_options(tmp_path, ca)

    def start_cert(context: "FakeContext") -> "pykka.ActorRef[CertActor]":
        return CertActor.start(context, now=cert.now, draw=lambda: 0.5)

    cert = ActorBench(Role.CERT, start_cert, options)
    sds = ActorBench(Role.SDS, SdsActor.start, options)
    cert.on_send = lambda to, message: sds.tell(message) if to is Role.SDS else None
    sds.on_send = lambda _to, message: cert.tell(message)
    sds.start()
    cert.start()
    with RealEnvoy(tmp_path, bootstrap(*free_ports(2))) as envoy:
        envoy.wait_live()
        wait_for(lambda: serial_numbers(envoy), what="the certificate in Envoy")
        (first,) = serial_numbers(envoy)
        assert SPIFFE_ID in envoy.admin("/certs")

        cert.tell(RotateNow(reason="operator"))
        (rotated,) = cert.wait_sent(IdentityRotated)
        wait_for(
            lambda: serial_numbers(envoy) == [int(rotated.serial_number, 16)], what="the rotation in Envoy"
        )
        assert first != int(rotated.serial_number, 16)

        cert.kill()
        sds.end()
        sds.start()
        cert.start()
        cert.tell(RotateNow(reason="operator"))
        (again,) = cert.wait_sent(IdentityRotated)
        wait_for(
            lambda: serial_numbers(envoy) == [int(again.serial_number, 16)], what="the next rotation in Envoy"
        )

        stats = envoy.stats(r"update_(rejected|success)|ssl_context_update")
        assert sum(value for name, value in stats.items() if "update_rejected" in name) == 0
        assert sum(value for name, value in stats.items() if "ssl_context_update" in name) >= 2
    assert len(ca.requests) == 3
    cert.end()
    sds.end()
