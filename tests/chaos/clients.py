"""The clients: HTTP/1.1, HTTP/2 and TCP through gateway and sidecar, DNS and Wasm at the sidecar."""

import contextlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dns.exception
import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.chaos.traffic import TrafficError
from tests.support.resolver import Client as DnsClient

_PATIENCE_S: Final = 10.0


class Http1:
    """HTTP/1.1; `kept`: one connection for as long as the server wants it, else a new one each time."""

    def __init__(self, port: int, path: str, *, kept: bool, header: str = "") -> None:
        self._port, self._path, self._kept, self._header = port, path, kept, header
        self._connection: http.client.HTTPConnection | None = None

    def once(self) -> None:
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE_S)
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            raise TrafficError(f"{type(error).__name__}: {error}") from error
        if response.status != 200:
            raise TrafficError(f"status {response.status}: {body[:100]!r}")
        if self._header and not response.headers.get(self._header):
            raise TrafficError(f"no header {self._header}")
        if not self._kept or response.will_close:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Http2:
    """HTTP/2 with prior knowledge, one stream after the other on one connection.

    A connection that says GOAWAY is left after the answer; a request that it refuses with that is asked
    again on a new one, as the protocol wants it.
    """

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._socket: socket.socket | None = None
        self._protocol = h2.connection.H2Connection()
        self._leaving = False

    def once(self) -> None:
        try:
            if not self._ask() and not self._ask():
                raise TrafficError("refused by GOAWAY twice")
        except h2.exceptions.ProtocolError as error:
            raise TrafficError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._leaving = None, False

    def _ask(self) -> bool:
        """Return whether there was an answer; False: the server did not look at the request."""
        link = self._socket or self._connect()
        stream = self._protocol.get_next_available_stream_id()
        head = [(":method", "GET"), (":path", self._path), (":scheme", "http"), (":authority", "chaos")]
        self._protocol.send_headers(stream, head, end_stream=True)
        link.sendall(self._protocol.data_to_send())
        status = ""
        while True:
            data = link.recv(65536)
            if not data:
                raise TrafficError("the connection was closed before the answer")
            for event in self._protocol.receive_data(data):
                match event:
                    case h2.events.ResponseReceived() if event.stream_id == stream:
                        status = str(dict(event.headers or ()).get(":status", ""))  # type: ignore[call-overload]
                    case h2.events.DataReceived():
                        self._protocol.acknowledge_received_data(
                            event.flow_controlled_length or 0, event.stream_id or 0
                        )
                    case h2.events.StreamReset() if event.stream_id == stream:
                        raise TrafficError(f"reset with {event.error_code}")
                    case h2.events.ConnectionTerminated():
                        self._leaving = True
                        if (event.last_stream_id or 0) < stream:
                            self.close()
                            return False
                    case h2.events.StreamEnded() if event.stream_id == stream:
                        link.sendall(self._protocol.data_to_send())
                        self._ended(status)
                        return True
            link.sendall(self._protocol.data_to_send())

    def _ended(self, status: str) -> None:
        if status != "200":
            raise TrafficError(f"status {status}")
        if self._leaving:
            self.close()

    def _connect(self) -> socket.socket:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._protocol.initiate_connection()
        return self._socket


class Tcp:
    """Sends eight bytes to the echo and reads them back; `kept`: on one connection."""

    def __init__(self, port: int, *, kept: bool) -> None:
        self._port, self._kept = port, kept
        self._socket: socket.socket | None = None

    def once(self) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE_S)
        sent = os.urandom(8)
        self._socket.sendall(sent)
        got = b""
        while len(got) < len(sent):
            data = self._socket.recv(64)
            if not data:
                raise TrafficError("the connection was closed before the echo")
            got += data
        if got != sent:
            raise TrafficError(f"echo got={got!r} expected={sent!r}")
        if not self._kept:
            self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


class Dns:
    """Asks the agent's DNS proxy as a stub resolver does: what is not answered in 2 s, once more."""

    def __init__(self, port: int, name: str) -> None:
        self._client, self._name = DnsClient(port), name

    def once(self) -> None:
        for _ in range(2):
            with contextlib.suppress(dns.exception.Timeout):
                reply = self._client.ask(self._name, within_s=2.0)
                if not reply.answer:
                    raise TrafficError(f"no address for {self._name}: {reply.rcode()}")
                return
        raise TrafficError("no answer to two queries")

    def close(self) -> None:
        """There is nothing to close."""


@contextmanager
def echo_server() -> Iterator[int]:
    """Yield the port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:

        def serve(link: socket.socket) -> None:
            with link, contextlib.suppress(OSError):
                while data := link.recv(4096):
                    link.sendall(data)

        def accept() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(link,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
