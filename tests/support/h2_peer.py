"""An HTTP/2 server in a thread, plain or over TLS with the ALPN that a test wants."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Headers = dict[str, str]
Reply = tuple[Headers, bytes, Headers]  # headers with :status, body, trailers


def self_signed(folder: Path) -> Path:
    """Write a key and a certificate for nobody in particular into one file; return its path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "self-signed.pem"
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def server_context(certificate: Path, alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class H2Peer:
    """Answers each request with `answer(headers, body)`; `tls` None: plain text. Keeps what it was sent."""

    def __init__(
        self,
        answer: Callable[[Mapping[str, str], bytes], Reply | None],
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._answer, self._tls = answer, tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[tuple[Headers, bytes]] = []
        self.before_reply: Callable[[h2.connection.H2Connection, int], None] = lambda *_: None
        self.after_reply: Callable[[h2.connection.H2Connection], None] = lambda _: None
        self.peers: list[str] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            self.peers.append(str(address[0]))
            self._open.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            self._answered(connection)
        except (OSError, h2.exceptions.ProtocolError):  # the client speaks something else, or is gone
            pass
        finally:
            connection.close()

    def _answered(self, connection: socket.socket) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        protocol = h2.connection.H2Connection(config)
        protocol.config.validate_outbound_headers = False  # a test may want to send anything
        protocol.initiate_connection()
        connection.sendall(protocol.data_to_send())
        headers: Headers = {}
        body = b""
        while data := connection.recv(65536):
            for event in protocol.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = {str(name): str(value) for name, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    self.requests.append((headers, body))
                    self.before_reply(protocol, event.stream_id)
                    self._reply(protocol, event.stream_id, self._answer(headers, body))
                    self.after_reply(protocol)
                    body = b""
            connection.sendall(protocol.data_to_send())

    @staticmethod
    def _reply(protocol: h2.connection.H2Connection, stream: int, reply: Reply | None) -> None:
        if reply is None:
            return
        headers, body, trailers = reply
        protocol.send_headers(stream, list(headers.items()), end_stream=not body and not trailers)
        if body:
            for at in range(0, len(body), 16_384):
                last = at + 16_384 >= len(body)
                protocol.send_data(stream, body[at : at + 16_384], end_stream=last and not trailers)
        if trailers:
            protocol.send_headers(stream, list(trailers.items()), end_stream=True)


def grpc_health(status: int, grpc_status: str = "0") -> Callable[[Mapping[str, str], bytes], Reply]:
    """Return what a health service answers that gives `status` to every service."""
    message = b"\x08" + bytes([status])
    frame = b"\0" + len(message).to_bytes(4, "big") + message

    def answer(_: Mapping[str, str], __: bytes) -> Reply:
        head = {":status": "200", "content-type": "application/grpc"}
        if grpc_status != "0":
            return head | {"grpc-status": grpc_status, "grpc-message": "no"}, b"", {}
        return head, frame, {"grpc-status": "0"}

    return answer
