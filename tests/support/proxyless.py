"""Proxyless gRPC: an echo service, what istiod tells of it, and a client that has only the bootstrap file."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography import x509
from google.protobuf import any_pb2
from google.protobuf.message import Message

from lab.authority import Authority
from lab.snapshot import CDS, EDS, LDS, Resource, Snapshot

REPOSITORY = Path(__file__).parents[2]
HOST = "echo.default.svc.cluster.local"
TARGET = f"{HOST}:7070"
_CLUSTER = f"outbound|7070||{HOST}"


@contextmanager
def echo_service(authority: Authority | None = None) -> Iterator[int]:
    """Serve on a port of loopback; with an authority only clients with its certificate (mTLS).

    An answer is JSON: the question, and the serial number of the client's certificate.
    """

    def say(question: bytes, context: grpc.ServicerContext) -> bytes:
        pem = bytes(next(iter(context.auth_context().get("x509_pem_cert", ())), b""))
        serial = f"{x509.load_pem_x509_certificate(pem).serial_number:x}" if pem else ""
        return json.dumps({"question": question.decode(), "client": serial}).encode()

    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.method_handlers_generic_handler("Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)})
    server.add_generic_rpc_handlers((handler,))
    if authority is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = authority.issue("spiffe://cluster.local/ns/default/sa/echo", HOST)
        credentials = grpc.ssl_server_credentials(
            [(pair.private_key_pem, pair.certificate_chain_pem)],
            root_certificates=authority.root_pem.encode(),
            require_client_auth=True,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(5)


def echo_snapshot(port: int, *, mtls: bool = False) -> Snapshot:
    """Return what istiod tells a gRPC client of the service on this port, in the shapes of its generator."""
    from envoy.config.cluster.v3 import cluster_pb2
    from envoy.config.endpoint.v3 import endpoint_pb2
    from envoy.config.listener.v3 import listener_pb2
    from envoy.extensions.filters.http.router.v3 import router_pb2
    from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
    from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

    manager = http_connection_manager_pb2.HttpConnectionManager()
    host = manager.route_config.virtual_hosts.add(name=TARGET, domains=["*"])
    host.routes.add().match.prefix = ""
    host.routes[0].route.cluster = _CLUSTER
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.CopyFrom(
        any_of(router_pb2.Router())
    )
    listener = listener_pb2.Listener(name=TARGET)
    listener.api_listener.api_listener.CopyFrom(any_of(manager))

    cluster = cluster_pb2.Cluster(name=_CLUSTER, type=cluster_pb2.Cluster.EDS)
    cluster.eds_cluster_config.eds_config.ads.SetInParent()
    if mtls:
        tls = tls_pb2.UpstreamTlsContext()
        common = tls.common_tls_context
        common.tls_certificate_provider_instance.instance_name = "default"
        common.validation_context.ca_certificate_provider_instance.instance_name = "default"
        cluster.transport_socket.name = "envoy.transport_sockets.tls"
        cluster.transport_socket.typed_config.CopyFrom(any_of(tls))

    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=_CLUSTER)
    locality = assignment.endpoints.add()
    locality.locality.region = "lab"
    locality.load_balancing_weight.value = 1
    address = locality.lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = "127.0.0.1", port
    return Snapshot.of(
        Resource.of(TARGET, LDS, listener.SerializeToString(deterministic=True)),
        Resource.of(_CLUSTER, CDS, cluster.SerializeToString(deterministic=True)),
        Resource.of(_CLUSTER, EDS, assignment.SerializeToString(deterministic=True)),
    )


class ProxylessClient:
    """A process of its own, as an application is: gRPC reads the bootstrap once in a process's life."""

    def __init__(self, bootstrap: Path, *, mtls: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "mtls" if mtls else "plain"],
            env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(bootstrap), "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: str) -> dict[str, Any]:
        """Return the service's answer; `error` has the words of a call that failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)


def any_of(message: Message) -> Any:  # xds-protos has no types
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def main() -> None:
    """Be the client: a question a line, an answer a line."""
    target = f"xds:///{TARGET}"
    if sys.argv[1] == "mtls":
        channel = grpc.secure_channel(target, grpc.xds_channel_credentials())
    else:
        channel = grpc.insecure_channel(target)
    say = channel.unary_unary("/Echo/Say", request_serializer=None, response_deserializer=None)
    for line in sys.stdin:
        try:
            answer = say(line.strip().encode(), timeout=15, wait_for_ready=True).decode()
        except grpc.RpcError as error:
            answer = json.dumps({"error": f"{error.code()}: {error.details()}"})
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
