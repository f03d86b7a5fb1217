"""A cloud's metadata server on its link-local address, asked over plain sockets.

HTTP/1.0 is enough (the answer ends with the connection) and needs no library: this runs in the
supervisor, whose memory all actors share.
"""

import socket
import time
from collections.abc import Mapping
from typing import Final

import msgspec

ADDRESS: Final = "169.254.169.254"

_ANSWER_LIMIT_BYTES: Final = 1 << 20


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: str


class MetadataServer:
    """Asks one server; all questions together may take `timeout_s`."""

    def __init__(self, host: str, port: int, *, timeout_s: float) -> None:
        self._host, self._port = host, port
        self._deadline = time.monotonic() + timeout_s

    def text(self, path: str, headers: Mapping[str, str], *, method: str = "GET") -> str:
        """Return the body of a 200, or an empty text for everything else."""
        try:
            answer = self.ask(path, headers, method=method)
        except (OSError, ValueError):
            return ""
        return answer.body.strip() if answer.status == 200 else ""

    def ask(self, path: str, headers: Mapping[str, str], *, method: str = "GET") -> Answer:
        """Return the answer.

        Raises:
            OSError: nobody answers, or not in time.
            ValueError: the answer is no HTTP.
        """
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no time left for the metadata server")
        with socket.create_connection((self._host, self._port), timeout=left_s) as connection:
            lines = [f"{method} {path} HTTP/1.0", f"Host: {self._host}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            return _parsed(self._received(connection))

    def _received(self, connection: socket.socket) -> bytes:
        received = bytearray()
        while len(received) < _ANSWER_LIMIT_BYTES:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("no time left for the metadata server")
            connection.settimeout(left_s)
            if not (piece := connection.recv(65536)):
                break
            received += piece
        return bytes(received)


def _parsed(data: bytes) -> Answer:
    head, separator, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    words = status_line.split(" ", 2)
    if not separator or len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        raise ValueError(f"expected an HTTP answer, got {data[:40]!r}")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(words[1]), headers, body.decode(errors="replace"))
