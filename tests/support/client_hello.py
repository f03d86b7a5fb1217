"""What a TLS client offers, read from the bytes that it begins with, and what a server agrees on with it.

Source: RFC 8446, section 4.1.2 (ClientHello) and 4.2 (extensions).
"""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_SUPPORTED_GROUPS, _SUPPORTED_VERSIONS = 10, 43


@dataclass
class Seen:
    """One connection as the server saw it."""

    suites: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)  # 0x0303 is TLS 1.2, 0x0304 is 1.3
    version: str = ""  # agreed on; empty: nothing was
    cipher: str = ""


def read(record: bytes) -> Seen:
    """Return what the ClientHello in this TLS record offers."""
    at = 5 + 4 + 2 + 32  # record, handshake, version, random
    at += 1 + record[at]  # session
    suites, at = _numbers(record, at, 2)
    at += 1 + record[at]  # compression
    seen = Seen(suites=suites)
    end = at + 2 + int.from_bytes(record[at : at + 2], "big")
    at += 2
    while at < end:
        kind, size = (
            int.from_bytes(record[at : at + 2], "big"),
            int.from_bytes(record[at + 2 : at + 4], "big"),
        )
        if kind == _SUPPORTED_GROUPS:
            seen.groups, _ = _numbers(record, at + 4, 2)
        elif kind == _SUPPORTED_VERSIONS:
            seen.versions, _ = _numbers(record, at + 4, 1)
        at += 4 + size
    if not seen.versions:
        seen.versions = [0x0303]
    return seen


def _numbers(record: bytes, at: int, length_bytes: int) -> tuple[list[int], int]:
    size = int.from_bytes(record[at : at + length_bytes], "big")
    at += length_bytes
    return [int.from_bytes(record[i : i + 2], "big") for i in range(at, at + size, 2)], at + size


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[tuple[int, list[Seen]]]:
    """Shake hands with whoever comes, then hang up; yields the port and what was seen."""
    seen: list[Seen] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    end, _ = listener.accept()
                except OSError:
                    return
                with end:
                    _shake_hands(end)

        def _shake_hands(end: socket.socket) -> None:
            end.settimeout(10)
            hello = end.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
            size = 5 + int.from_bytes(hello[3:5], "big")
            found = read(end.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL))
            seen.append(found)
            try:
                with context.wrap_socket(end, server_side=True) as secured:
                    found.version, found.cipher = secured.version() or "", (secured.cipher() or ("",))[0]
                    secured.recv(1)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def server_context(key: bytes, chain: bytes, folder: Path) -> ssl.SSLContext:
    """Return a server's context for HTTP/2 with this key and certificate (PEM)."""
    (folder / "server-key.pem").write_bytes(key)
    (folder / "server-cert.pem").write_bytes(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server-cert.pem", folder / "server-key.pem")
    context.set_alpn_protocols(["h2"])
    return context
