"""The least control plane that answers: a response of the wanted size for each request that names one.

A request that holds `size-N` or `size-N-in-M`, as a resource name or as the nonce that it acknowledges, is
answered with a response of about N bytes (in M resources), made before and with that as its nonce. All other
requests are not answered.
A process of its own, so that it shares no interpreter lock with the client.

    python -m benchmarks.echo KEY_FILE CHAIN_FILE

It prints its port and serves over TLS until its standard input ends.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from lab.ads import ADS_SERVICE
from lab.authority import KeyPair
from lab.server import listen, make_server, quit_server, tls
from lab.snapshot import EDS

_SIZE: Final = re.compile(rb"size-(\d+)(?:-in-(\d+))?")
_PARTS_FROM: Final = 100_000
_PARTS: Final = 500


@cache
def response(nonce: str, size_bytes: int, parts: int) -> bytes:
    """Return a response of about this size, in so many resources."""
    message = discovery_pb2.DeltaDiscoveryResponse(type_url=EDS, nonce=nonce, system_version_info="1")
    left = max(size_bytes - message.ByteSize(), parts)
    for at in range(parts):
        value = any_pb2.Any(type_url=EDS, value=b"")
        one = discovery_pb2.Resource(name=f"r{at}", version="1", resource=value)
        value.value = b"x" * max(left // parts - one.ByteSize() - 10, 0)
        one.resource.CopyFrom(value)
        message.resources.append(one)
    data: bytes = message.SerializeToString()
    return data


def _serve(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        if named := _SIZE.search(request):
            size_bytes = int(named[1])
            usual = _PARTS if size_bytes > _PARTS_FROM else 1  # a push of istiod has some hundred resources
            yield response(named[0].decode(), size_bytes, int(named[2] or usual))


def main(key_file: str, chain_file: str) -> None:
    handler: Any = grpc.stream_stream_rpc_method_handler(_serve)  # Any: bytes both ways
    server = make_server(
        [grpc.method_handlers_generic_handler(ADS_SERVICE, {"DeltaAggregatedResources": handler})]
    )
    pair = KeyPair(Path(chain_file).read_bytes(), Path(key_file).read_bytes())
    port = listen(server, "127.0.0.1:0", tls(pair, client_root_pem=None))
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    quit_server(server)


if __name__ == "__main__":
    main(*sys.argv[1:])
