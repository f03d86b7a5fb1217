"""A gRPC server of the lab: port or Unix socket, TLS or not, ended within a deadline."""

from collections.abc import Iterable
from concurrent import futures
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from lab.authority import KeyPair

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # the agent pings every 30 s
    ("grpc.keepalive_permit_without_calls", 1),
)
_STREAMS = 256  # one thread each; they are started when needed


# Any: one name for the handlers of all messages
Handler: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, bytes]"


class PortTakenError(OSError):
    """Nothing can listen there: another process does, or the address is not ours."""


def make_server(handlers: Iterable[Handler]) -> grpc.Server:
    """Return a server without a port. Every stream holds one thread until it ends."""
    pool = futures.ThreadPoolExecutor(max_workers=_STREAMS, thread_name_prefix="lab-rpc")
    return grpc.server(pool, handlers=list(handlers), options=_OPTIONS)


def listen(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Add one port and return its number; 0 in the address asks for a free one.

    Raises:
        PortTakenError: the address cannot be bound.
    """
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortTakenError(f"{address}: {error}") from error
    if not port:
        raise PortTakenError(f"{address}: cannot be bound")
    return port


def tls(pair: KeyPair, *, client_root_pem: str | None) -> grpc.ServerCredentials:
    """Return credentials for `pair`; with `client_root_pem` every client must show a certificate of it.

    gRPC's Python server knows "required" and "not asked for", nothing between: a client that offers its
    certificate to a server that does not ask connects all the same, by its token.
    """
    root = None if client_root_pem is None else client_root_pem.encode()
    return grpc.ssl_server_credentials(
        [(pair.private_key_pem, pair.certificate_chain_pem)],
        root_certificates=root,
        require_client_auth=root is not None,
    )


def unix_address(path: Path) -> str:
    """Return gRPC's address of a Unix socket; an old file there is removed first.

    Raises:
        ValueError: the path is longer than the kernel takes (107 bytes).
    """
    absolute = path.absolute()
    if len(bytes(absolute)) > 107:
        raise ValueError(f"socket path of {len(bytes(absolute))} bytes, at most 107: {absolute}")
    absolute.parent.mkdir(parents=True, exist_ok=True)
    absolute.unlink(missing_ok=True)
    return f"unix:{absolute}"


def quit_server(server: grpc.Server, deadline_s: float = 5.0) -> None:
    """End all RPCs at once and wait until the port is free."""
    server.stop(grace=0).wait(deadline_s)
