"""The SDS gRPC server on a Unix socket.

Measured with 400 streams (200 secrets, two Envoys during a hot restart): 800 threads, 28 MB of private
memory; two streams, the usual case: four threads. grpc.aio would bring asyncio into the process.
"""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import grpc

from pilot_agent.log import get_logger
from pilot_agent.security.sds_session import DELTA, SOTW, Serving, Session, StreamFailedError, Variant
from pilot_agent.security.secret_store import WaitEndedError
from pilot_agent.sockets import BoundSocket, bind_unix

SERVICE: Final = "envoy.service.secret.v3.SecretDiscoveryService"
STREAM_LIMIT: Final = 1000
"""Streams at once; the next is answered RESOURCE_EXHAUSTED. Below the pool, so that none waits in silence."""

_log = get_logger("ads")


class SdsServer:
    """Serves what is in the store of `serving`; whoever makes it calls `quit`."""

    def __init__(self, serving: Serving, *, stream_limit: int = STREAM_LIMIT) -> None:
        self._serving = serving
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()
        self._server = grpc.server(
            ThreadPoolExecutor(stream_limit + 8, thread_name_prefix="sds-stream"),
            maximum_concurrent_rpcs=stream_limit,
            options=[("grpc.max_concurrent_streams", 100_000), ("grpc.so_reuseport", 0)],
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self._socket: BoundSocket | None = None

    def serve(self, path: str) -> None:
        """Listen on `path` and begin to answer.

        Raises:
            SocketError: the socket cannot be bound; this server is of no use then.
        """
        self._socket = bind_unix(self._server, path)
        self._server.start()

    def push(self, material: str) -> None:
        """Send new material to every stream that has subscribed to it; does not block."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.changed(material)

    def streams(self) -> int:
        """Return how many streams are open."""
        with self._lock:
            return len(self._sessions)

    def quit(self, grace_s: float) -> None:
        """End all streams and take the socket away, unless it is a successor's by now."""
        if self._socket is not None:
            self._socket.unlink()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.end()
        self._server.stop(grace_s).wait(grace_s + 1.0)

    def _handlers(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamSecrets": grpc.stream_stream_rpc_method_handler(partial(self._stream, SOTW)),
                "DeltaSecrets": grpc.stream_stream_rpc_method_handler(partial(self._stream, DELTA)),
                "FetchSecrets": grpc.unary_unary_rpc_method_handler(self._fetch),
            },
        )

    def _stream(
        self, variant: Variant, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        session = Session(next(self._numbers), self._serving, variant)
        with self._lock:
            self._sessions.add(session)
        context.add_callback(session.end)
        reader = threading.Thread(target=session.read, args=(requests,), name="sds-read", daemon=True)
        reader.start()
        try:
            yield from session.responses()
        except WaitEndedError:
            return
        except StreamFailedError as failure:
            _log.warn(f"ADS: stream {session.number} failed: {failure.text}")
            context.abort(failure.code, failure.text)
        finally:
            with self._lock:
                self._sessions.discard(session)
            _log.info(f'ADS: "" {session.number} terminated')

    def _fetch(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        session = Session(next(self._numbers), self._serving)
        context.add_callback(session.end)
        try:
            return session.fetch(request)
        except WaitEndedError:
            context.abort(grpc.StatusCode.CANCELLED, "the caller is gone, or the agent ends")
        except StreamFailedError as failure:
            context.abort(failure.code, failure.text)
        raise AssertionError  # abort raises
