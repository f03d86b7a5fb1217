"""An HTTP(S) site on loopback for fetches: it serves pages, and lies, stalls or never ends as told."""

import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from lab.authority import KeyPair


@dataclass(frozen=True)
class Asked:
    """One request; names of headers in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


Page = Callable[[Asked], Iterable[bytes]]
"""Returns the raw answer in pieces, each sent when it is there."""


def answer(body: bytes = b"", status: int = 200, *headers: str) -> list[bytes]:
    """Return a whole answer with its length."""
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'Told So'}", f"Content-Length: {len(body)}"]
    return ["\r\n".join((*lines, *headers, "", "")).encode() + body]


def page(body: bytes, status: int = 200, *headers: str) -> Page:
    return lambda _: answer(body, status, *headers)


def redirect(location: str, status: int = 302) -> Page:
    return page(b"", status, f"Location: {location}")


def truncated(body: bytes, missing: int) -> Page:
    """Announce more than comes."""
    return lambda _: [answer(body + bytes(missing))[0][:-missing]]


def endless(piece: bytes = bytes(65536)) -> Page:
    """Send for as long as somebody reads, without a length."""

    def send(_: Asked) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            yield piece

    return send


def silent() -> Page:
    """Take the request and say nothing for a minute, or until the site is closed."""

    def send(_: Asked) -> Iterator[bytes]:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            time.sleep(0.01)
            yield b""

    return send


@dataclass
class Site:
    """`pages` by path, may be changed at any time; `asked` has every request."""

    tls: KeyPair | None = None
    host: str = "127.0.0.1"
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._context = _context(self.tls) if self.tls else None
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def count(self, path: str) -> int:
        return sum(one.path == path for one in self.asked)

    def page_for(self, asked: Asked) -> Page:
        return self.pages.get(asked.path, page(b"not here", 404))

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        with connection:
            try:
                self._exchange(self._secured(connection))
            except OSError:
                return  # the client went away, as it may

    def _secured(self, connection: socket.socket) -> socket.socket | None:
        if self._context is not None:
            return self._context.wrap_socket(connection, server_side=True)
        if connection.recv(1, socket.MSG_PEEK) == b"\x16":  # TLS; Go's server answers it so
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request.\n")
            return None
        return connection

    def _exchange(self, connection: socket.socket | None) -> None:
        if connection is None:
            return
        with connection:
            asked = _read(connection)
            if asked is None:
                return
            self.asked.append(asked)
            for piece in self.page_for(asked)(asked):
                if self._closing.is_set():
                    return
                connection.sendall(piece)

    def close(self) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(connection: socket.socket) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    return Asked(method, parts.path, parse_qs(parts.query), headers, body)


def _context(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        chain, key = Path(directory, "chain"), Path(directory, "key")
        chain.write_bytes(pair.certificate_chain_pem)
        key.write_bytes(pair.private_key_pem)
        context.load_cert_chain(chain, key)
    return context
