"""A peer that answers with the bytes it is told to, and keeps what it was sent."""

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.real_envoy import free_ports


class HttpPeer:
    """Accepts on a port, a free one unless given; each connection gets `answer(request)`, then it is closed.

    An answer of None keeps the connection open and silent until the peer is closed.
    """

    def __init__(
        self, answer: Callable[[bytes], bytes | None], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.answer = answer
        self._listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.peers: list[str] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            self.peers.append(str(address[0]))
            self._open.append(connection)  # here, so that `close` misses none
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            request = _request(connection)
            self.requests.append(request)
            answer = self.answer(request)
            if answer is not None:
                connection.sendall(answer)
                connection.close()
        except OSError:
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Return an answer with a Content-Length."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def closed_port() -> int:
    """Return a port that nobody listens on, unless the test itself does."""
    return free_ports(1)[0]


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    wanted = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            wanted = int(line.partition(b":")[2])
    while len(body) < wanted:
        more = connection.recv(65536)
        if not more:
            break
        body += more
    return head + b"\r\n\r\n" + body
