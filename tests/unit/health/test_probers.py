"""The probers against real servers, commands and sockets."""

import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from pilot_agent import wire
from pilot_agent.health.checker import Probe
from pilot_agent.health.probe import Exec, Grpc, HttpGet, Method, TcpSocket
from pilot_agent.health.probers import prober
from tests.support.h2_peer import H2Peer
from tests.support.http_peer import HttpPeer, closed_port, reply
from tests.support.waiting import wait_for


def probe_of(method: Method, timeout_s: float = 2.0) -> Probe:
    return prober(method, default_host="127.0.0.1", source_address="127.0.0.6", timeout_s=timeout_s)


def http(peer: HttpPeer, **fields: object) -> Probe:
    return probe_of(HttpGet(port=peer.port, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("200 OK", None),
        ("399 Odd", None),
        ("400 Bad Request", "status code was not from [200,400), bad code 400"),
        ("503 Service Unavailable", "status code was not from [200,400), bad code 503"),
    ],
)
def test_http_is_well_from_200_to_399(status: str, text: str | None) -> None:
    with HttpPeer(lambda _: reply(status, b"body")) as peer:
        assert http(peer)() == text


def test_an_http_probe_asks_as_the_reference_does() -> None:
    with HttpPeer(lambda _: reply("200 OK")) as peer:
        assert http(peer, path="ready?x=1&y=a b", headers=(("X", "1"), ("X", "2"), ("Host", "app")))() is None
        assert http(peer, headers=(("User-Agent", "mine"),))() is None
        assert http(peer, headers=(("user-agent", "also"),))() is None
    first, second, third = (request.decode().split("\r\n") for request in peer.requests)
    assert first[0] == "GET /ready?x=1&y=a%20b HTTP/1.1"
    assert {"X: 1", "X: 2", "Host: app", "User-Agent: istio-probe/1.0"} <= set(first)
    assert {"Connection: close", "Accept-Encoding: gzip", f"Host: 127.0.0.1:{peer.port}"} <= set(second)
    assert "User-Agent: mine" in second
    assert not any("istio-probe" in line for line in second)
    assert {"user-agent: also", "User-Agent: istio-probe/1.0"} <= set(third)
    assert peer.peers == ["127.0.0.6"] * 3, "the source that traffic redirection lets pass"


def test_an_http_probe_follows_redirects_but_not_for_ever() -> None:
    def answer(request: bytes) -> bytes:
        where = "/end" if b"/start" in request else "/loop"
        return reply("200 OK") if b" /end " in request else reply("302 Found", b"", f"Location: {where}")

    with HttpPeer(answer) as peer:
        assert http(peer, path="/start")() is None
        assert http(peer, path="/loop")() == (
            f'Get "http://127.0.0.1:{peer.port}/loop": stopped after 10 redirects'
        )


def test_an_http_probe_that_reaches_nobody_says_so() -> None:
    port = closed_port()
    assert probe_of(HttpGet(port=port))() == (
        f'Get "http://127.0.0.1:{port}/": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )


def test_an_http_probe_ends_at_its_time_limit() -> None:
    with HttpPeer(lambda _: None) as peer:
        began = time.monotonic()
        text = probe_of(HttpGet(port=peer.port), timeout_s=0.2)()
    assert text is not None
    assert "context deadline exceeded" in text
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("path", ["/%zz", "/a\nb"])
def test_a_path_that_is_none_is_a_failure(path: str) -> None:
    text = probe_of(HttpGet(port=1, path=path))()
    assert text is not None
    assert text.startswith("parse ")


def test_an_https_probe_does_not_verify(tmp_path: Path) -> None:
    import datetime as dt
    import socket
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody else")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(1))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem += key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(65536)
                tls.sendall(reply("200 OK"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert probe_of(HttpGet(port=listener.getsockname()[1], scheme="https"))() is None
        thread.join(5)


def test_tcp_is_well_while_somebody_listens() -> None:
    with HttpPeer(lambda _: b"") as peer:
        probe = probe_of(TcpSocket(port=peer.port))
        assert probe() is None
    assert probe() == f"dial tcp 127.0.0.1:{peer.port}: connect: connection refused"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("true",), None),
        (("sh", "-c", "exit 3"), "exit status 3"),
        (("sh", "-c", "kill -9 $$"), "signal: killed"),
        (("no-such-program-here",), 'exec: "no-such-program-here": executable file not found in $PATH'),
        (("/no/such/program",), "fork/exec /no/such/program: no such file or directory"),
        ((), "exec: no command"),
    ],
)
def test_a_command_is_well_with_exit_status_0(command: tuple[str, ...], text: str | None) -> None:
    assert probe_of(Exec(command=command))() == text


def test_a_command_is_killed_with_its_children_at_the_time_limit(tmp_path: Path) -> None:
    out = tmp_path / "pid"
    began = time.monotonic()
    probe = probe_of(Exec(command=("/bin/sh", "-c", f"sleep 60 & echo $! > '{out}'; wait")), timeout_s=1.5)
    assert probe() == "command timeout exceeded: signal: killed"
    assert time.monotonic() - began < 10
    child = Path(f"/proc/{int(out.read_text())}/stat")
    wait_for(lambda: _state(child) in "ZX", within_s=5, what="the end of the command's child")


def _state(stat: Path) -> str:
    """Return the letter of a process's state, X for one that is gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def test_a_command_takes_the_signals_that_the_agent_ignores() -> None:
    import signal

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert probe_of(Exec(command=("sh", "-c", "kill -TERM $$; exit 0")))() == "signal: terminated"
    finally:
        signal.signal(signal.SIGTERM, before)


class HealthService(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """grpc.health.v1.Health/Check on the wire: services by name, "slow" never answers."""

    def __init__(self, statuses: dict[str, int]) -> None:
        self.statuses = statuses
        self.user_agents: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self.check)

    def check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        name = next((request[f.start : f.end].decode() for f in wire.fields(request) if f.number == 1), "")
        self.user_agents.append(str(dict(context.invocation_metadata())["user-agent"]))
        if name == "slow":
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(5)
        if name not in self.statuses:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return wire.varint_field(1, self.statuses[name])


def grpc_server(*handlers: HealthService) -> tuple[grpc.Server, int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def test_grpc_is_well_when_the_service_says_serving() -> None:
    service = HealthService({"": 1, "up": 1, "down": 2, "odd": 0, "slow": 1})
    server, port = grpc_server(service)
    try:
        assert probe_of(Grpc(port=port))() is None
        assert probe_of(Grpc(port=port, service="up"))() is None
        assert probe_of(Grpc(port=port, service="down"))() == "service not serving: NOT_SERVING"
        assert probe_of(Grpc(port=port, service="odd"))() == "service not serving: UNKNOWN"
        assert probe_of(Grpc(port=port, service="other"))() == (
            "health rpc probe failed with status NotFound: rpc error: code = NotFound desc = unknown service"
        )
        slow = probe_of(Grpc(port=port, service="slow"), timeout_s=1.0)()
        assert slow is not None
        assert slow.startswith("health rpc probe timed out after 1s: rpc error: code = DeadlineExceeded")
        assert service.user_agents[0].startswith("istio-probe/1.0")
    finally:
        server.stop(None).wait(5)


def test_a_server_without_the_health_service_is_told_as_such() -> None:
    server, port = grpc_server()
    try:
        text = probe_of(Grpc(port=port))()
    finally:
        server.stop(None).wait(5)
    assert text is not None
    assert text.startswith(
        f"service on port {port} doesn't implement the grpc health protocol grpc.health.v1.Health: "
    )


def test_grpc_without_a_listener_ends_at_the_time_limit() -> None:
    port = closed_port()
    assert probe_of(Grpc(port=port), timeout_s=0.5)() == (
        f"failed to connect health check grpc service on port {port}: context deadline exceeded"
    )


def test_grpc_needs_somebody_who_speaks_http2_and_says_how_it_ended_otherwise() -> None:
    connecting = "failed to connect health check grpc service on port"
    with HttpPeer(lambda _: None) as silent:
        text = probe_of(Grpc(port=silent.port), timeout_s=0.3)()
        assert text == f"{connecting} {silent.port}: context deadline exceeded"
    with HttpPeer(lambda _: reply("200 OK")) as other:
        text = probe_of(Grpc(port=other.port))()
        assert (text or "").startswith("health rpc probe failed with status Unavailable: rpc error: code = ")


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({":status": "404"}, "Unimplemented"),
        ({":status": "503"}, "Unavailable"),
        ({":status": "200", "grpc-status": "16", "grpc-message": "not%20you"}, "Unauthenticated"),
        ({":status": "200", "grpc-status": "99"}, "Unknown"),
        ({":status": "200", "grpc-status": "x"}, "Unknown"),
    ],
)
def test_every_way_a_call_may_end_has_its_name(headers: dict[str, str], name: str) -> None:
    with H2Peer(lambda _, __: (headers, b"", {})) as app:
        text = probe_of(Grpc(port=app.port))() or ""
    assert f"rpc error: code = {name} desc = " in text
    assert "not%20" not in text
