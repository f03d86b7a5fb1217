"""The gRPC library's own server with a health service, for probes."""

from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager

import grpc

from pilot_agent import wire


@contextmanager
def health_server(statuses: Mapping[str, int], pool: futures.ThreadPoolExecutor) -> Iterator[int]:
    """Serve these services' statuses on a free port of loopback; others are NOT_FOUND."""

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        names = [request[each.start : each.end].decode() for each in wire.fields(request) if each.number == 1]
        status = statuses.get(names[0] if names else "")
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return wire.varint_field(1, status or 0)

    server = grpc.server(pool)
    handler = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait(5)
        pool.shutdown(wait=True)
