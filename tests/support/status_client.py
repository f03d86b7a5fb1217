"""Speaks raw bytes to the status server, so that a test sees exactly what is on the wire."""

import socket
from typing import NamedTuple


class Raw(NamedTuple):
    status: int
    headers: dict[str, str]  # names as sent
    body: bytes


def open_client(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=10)


def ask(port: int, request: str, host: str = "127.0.0.1") -> Raw:
    """Send one request on a connection of its own and return its answer."""
    with open_client(port, host) as client:
        client.sendall(request.encode("latin-1"))
        return read_answer(client, head_only=request.startswith("HEAD"))


def get(port: int, path: str, *headers: str, method: str = "GET", host: str = "127.0.0.1") -> Raw:
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")
    return ask(port, "\r\n".join(lines), host)


def read_answer(client: socket.socket, *, head_only: bool = False) -> Raw:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(client)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    status = int(lines[0].split(" ")[1])
    lower = {name.lower(): value for name, value in headers.items()}
    if head_only or status in (100, 204, 304):
        return Raw(status, headers, body)
    if lower.get("transfer-encoding") == "chunked":
        return Raw(status, headers, _dechunked(client, body))
    if "content-length" in lower:
        while len(body) < int(lower["content-length"]):
            body += _more(client)
        return Raw(status, headers, body)
    while piece := client.recv(65536):
        body += piece
    return Raw(status, headers, body)


def _dechunked(client: socket.socket, data: bytes) -> bytes:
    body = b""
    while True:
        while b"\r\n" not in data:
            data += _more(client)
        size_text, _, data = data.partition(b"\r\n")
        size = int(size_text, 16)
        while len(data) < size + 2:
            data += _more(client)
        body, data = body + data[:size], data[size + 2 :]
        if size == 0:
            return body


def _more(client: socket.socket) -> bytes:
    piece = client.recv(65536)
    if not piece:
        raise ConnectionError("closed before the answer was whole")
    return piece
