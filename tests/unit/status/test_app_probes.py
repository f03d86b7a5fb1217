"""The application's probes, through the status port, against real servers."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from pilot_agent.status.app.configuration import AppProber, parse_app_probers
from pilot_agent.status.app.probes import AppProbeOptions, AppProbes, host_header
from pilot_agent.status.messages import Request
from tests.support.h2_peer import H2Peer, Reply, grpc_health
from tests.support.http_peer import HttpPeer, closed_port, reply
from tests.support.status_client import Raw, get
from tests.unit.status.conftest import Start

READY = "/app-health/app/readyz"


class Probing:
    """One prober behind a real status port; `ask` sends a request as the kubelet would."""

    def __init__(self, serve: Start, prober: AppProber, **options: object) -> None:
        settings = AppProbeOptions(probers={READY: prober}, **{"host": "127.0.0.1"} | options)  # type: ignore[arg-type]
        self.probes = AppProbes(settings)
        self.port = serve(self.probes.answer).port

    def close(self) -> None:
        self.probes.close()

    def ask(self, *headers: str, path: str = READY, method: str = "GET") -> Raw:
        return get(self.port, path, "User-Agent: kube-probe/1.30", *headers, method=method)


def http(port: int, path: str = "/ready", timeout_s: float = 5.0, *, tls: bool = False) -> AppProber:
    return AppProber(kind="http", port=port, path=path, timeout_s=timeout_s, tls=tls)


@pytest.mark.parametrize(
    "status", [*range(200, 209), 226, *range(400, 427), 428, 429, 431, 451, *range(500, 512)]
)
def test_the_applications_status_comes_back(serve: Start, status: int) -> None:
    body = b"" if status in (204, 205) else b"text"
    with HttpPeer(lambda _: reply(f"{status} Some Words", body)) as app:
        found = Probing(serve, http(app.port)).ask()
    assert (found.status, found.body) == (status, body)


def test_probes_as_the_injector_writes_them_reach_the_application_by_its_pods_name(serve: Start) -> None:
    with HttpPeer(lambda _: reply("200 OK")) as app:
        get_from: dict[str, dict[str, object]] = {
            "/app-health/hello/readyz": {"path": "/hello/sunnyvale"},
            "/app-health/hello/livez": {},
            "/app-health/hello/startupz": {"path": "hello/texas"},
            "/app-lifecycle/hello/prestopz": {"path": "hello/texas"},
            "/app-lifecycle/hello/poststartz": {
                "path": "/",
                "httpHeaders": [{"name": "X-Own", "value": "1"}],
            },
        }
        text = json.dumps({path: {"httpGet": {"port": app.port} | more} for path, more in get_from.items()})
        probes = AppProbes(AppProbeOptions(probers=parse_app_probers(text), host="localhost"))
        port = serve(probes.answer).port
        assert [get(port, path).status for path in get_from] == [200] * 5
        asked = [request.decode().split(" ")[1] for request in app.requests]
        assert asked == ["/hello/sunnyvale", "/", "/hello/texas", "/hello/texas", "/"]
        assert not any(b"x-own" in request.lower() for request in app.requests)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
def test_a_redirect_without_a_target_or_elsewhere_counts_as_success(serve: Start, status: int) -> None:
    with HttpPeer(lambda _: reply(f"{status} Moved")) as app:
        assert Probing(serve, http(app.port)).ask().status == 200
    with HttpPeer(lambda _: reply(f"{status} Moved", b"", "Location: http://elsewhere.test/x")) as app:
        found = Probing(serve, http(app.port)).ask()
        assert found.status == 200
        assert "Location" not in found.headers
        assert len(app.requests) == 1


def test_redirects_on_the_same_host_are_followed_on_any_port_but_not_for_ever(
    serve: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    with HttpPeer(lambda _: reply("200 OK", b"second")) as second:

        def first(request: bytes) -> bytes:
            if b"/loop" in request:
                return reply("302 Found", b"", "Location: /loop")
            return reply("301 Moved", b"", f"Location: http://127.0.0.1:{second.port}/there")

        with HttpPeer(first) as app:
            found = Probing(serve, http(app.port)).ask()
            assert (found.status, found.body) == (200, b"second")
            assert second.requests[0].startswith(b"GET /there HTTP/1.1\r\n")
            assert Probing(serve, http(app.port, "/loop")).ask().status == 500
            assert sum(b"/loop" in request for request in app.requests) == 10
    log = capfd.readouterr().out
    assert "\terror\tprobes\tRequest to probe app failed: Get " in log
    assert "stopped after 10 redirects, original URL path = /app-health/app/readyz" in log
    assert "app URL path = /loop" in log


def test_a_redirect_to_what_is_no_url_is_500(serve: Start) -> None:
    with HttpPeer(lambda _: reply("302 Found", b"", "Location: http://[::1")) as app:
        assert Probing(serve, http(app.port)).ask().status == 500


def test_the_application_sees_the_callers_headers_and_a_get_from_the_probe_address(serve: Start) -> None:
    with HttpPeer(lambda _: reply("200 OK")) as app:
        probing = Probing(serve, http(app.port, "/a b?x=1"), status_port=15020)
        probing.ask("x-twice: 1", "X-Twice: 2", "Connection: keep-alive", "Content-Length: 0", method="POST")
        raw = f"GET {READY} HTTP/1.1\r\nHost: pod.ns:15020\r\nAccept-Encoding: br\r\n\r\n"
        with socket.create_connection(("127.0.0.1", probing.port)) as client:
            client.sendall(raw.encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert app.peers == ["127.0.0.6", "127.0.0.6"]
    first, second = (request.decode().split("\r\n") for request in app.requests)
    assert first[0] == "GET /a%20b?x=1 HTTP/1.1"
    assert sorted(filter(None, first[1:])) == [
        "Accept-Encoding: gzip",
        "Connection: close",
        "Host: localhost",
        "User-Agent: kube-probe/1.30",
        "X-Twice: 1",
        "X-Twice: 2",
    ]
    assert f"Host: pod.ns:{app.port}" in second
    assert "Accept-Encoding: br" in second
    assert not any("gzip" in line for line in second)


@pytest.mark.parametrize(
    ("incoming", "expected"),
    [("x:15020", "x:80"), ("x", "x"), ("x:9090", "x:9090"), ("[::1]:15020", "[::1]:80"), ("[::1]", "[::1]")],
)
def test_the_status_port_in_host_becomes_the_applications(incoming: str, expected: str) -> None:
    assert host_header(incoming, 15020, 80) == expected


def test_a_body_is_cut_sniffed_and_unpacked(serve: Start) -> None:
    page = b"<!DOCTYPE html>" + b"x" * 20_000
    with HttpPeer(lambda _: reply("200 OK", page, "X-App: secret")) as app:
        found = Probing(serve, http(app.port)).ask()
    assert found.body == page[:10_240]
    assert found.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "X-App" not in found.headers
    packed = reply("200 OK", gzip.compress(page), "Content-Encoding: gzip")
    with HttpPeer(lambda _: packed) as app:
        assert Probing(serve, http(app.port)).ask().body == page[:10_240]
    with HttpPeer(lambda _: reply("200 OK", b'{"a": 1}')) as app:
        assert Probing(serve, http(app.port)).ask().headers["Content-Type"] == "text/plain; charset=utf-8"
    with HttpPeer(lambda _: reply("200 OK", b"\x00\x01")) as app:
        found = Probing(serve, http(app.port)).ask()
        assert found.headers["Content-Type"] == "application/octet-stream"


def test_an_application_that_is_slow_absent_or_no_http_is_500_without_a_body(serve: Start) -> None:
    with HttpPeer(lambda _: None) as silent:
        began_s = time.monotonic()
        found = Probing(serve, http(silent.port, timeout_s=0.3)).ask()
        assert (found.status, found.body) == (500, b"")
        assert 0.3 <= time.monotonic() - began_s < 2
    assert Probing(serve, http(closed_port())).ask().status == 500
    with HttpPeer(lambda _: b"SSH-2.0-OpenSSH\r\n") as other:
        assert Probing(serve, http(other.port)).ask().status == 500
    with HttpPeer(lambda _: reply("200 OK")) as app:
        bracketed = Probing(serve, http(app.port), host="[::1]")
        assert bracketed.ask().status == 500, "as the reference: an address in brackets does not work"


def test_an_endless_body_is_cut_and_its_status_counts(serve: Start) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def talk_for_ever() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    connection.sendall(b"again and " * 1000)
            except OSError:
                return

    thread = threading.Thread(target=talk_for_ever, daemon=True)
    thread.start()
    with listener:
        found = Probing(serve, http(listener.getsockname()[1])).ask()
        thread.join(10)
    assert (found.status, len(found.body)) == (200, 10_240)
    assert not thread.is_alive()


def test_probes_of_a_target_that_never_answers_do_not_take_more_than_their_share(serve: Start) -> None:
    with HttpPeer(lambda _: None) as silent:
        probing = Probing(serve, http(silent.port, timeout_s=1.0))
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(probing.ask().status), daemon=True)
            for _ in range(40)
        ]
        began_s = time.monotonic()
        for thread in threads:
            thread.start()
        assert Probing(serve, http(closed_port())).ask().status == 500, "another path is served meanwhile"
        assert time.monotonic() - began_s < 0.9
        for thread in threads:
            thread.join(10)
        assert answers == [500] * 40
        assert len(silent.requests) <= 40


def tcp(port: int, timeout_s: float = 1.0) -> AppProber:
    return AppProber(kind="tcp", port=port, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("listens", "asked", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("::1", "::1", 200),
        ("127.0.0.1", "localhost", 200),
        ("::1", "[::1]", 500),
    ],
)
def test_tcp_connects_and_closes(serve: Start, listens: str, asked: str, expected: int) -> None:
    family = socket.AF_INET6 if ":" in listens else socket.AF_INET
    with socket.create_server((listens, 0), family=family) as app:
        found = Probing(serve, tcp(app.getsockname()[1]), host=asked).ask()
    assert (found.status, found.body) == (expected, b"")
    assert Probing(serve, tcp(closed_port()), host=listens).ask().status == 500


def test_an_ipv6_source_that_no_rule_made_is_passed_over(serve: Start) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as app:
        probing = Probing(serve, tcp(app.getsockname()[1]), host="::1", source_address="::6")
        assert probing.ask().status == 200


def grpc(port: int, service: str = "", timeout_s: float = 2.0) -> AppProber:
    return AppProber(kind="grpc", port=port, service=service, timeout_s=timeout_s)


@pytest.mark.parametrize(("status", "expected"), [(1, 200), (2, 500), (0, 500), (3, 500)])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_grpc_is_well_when_serving(serve: Start, status: int, expected: int, host: str) -> None:
    with H2Peer(grpc_health(status), host=host) as app:
        assert Probing(serve, grpc(app.port, "foo"), host=host).ask().status == expected
        headers, body = app.requests[0]
    assert headers[":path"] == "/grpc.health.v1.Health/Check"
    assert headers["user-agent"].startswith("kube-probe/1.30")
    assert body == b"\0\0\0\0\x05\x0a\x03foo"


def test_grpc_passes_the_redirection_by_its_source_address(serve: Start) -> None:
    with H2Peer(grpc_health(1)) as app:
        assert Probing(serve, grpc(app.port)).ask().status == 200
        assert app.peers == ["127.0.0.6"]
        assert app.requests[0][1] == b"\0\0\0\0\0"


def test_grpc_without_a_time_limit_fails_at_once_and_without_a_server_at_the_limit(serve: Start) -> None:
    began_s = time.monotonic()
    assert Probing(serve, grpc(closed_port(), timeout_s=0.0)).ask().status == 500
    assert time.monotonic() - began_s < 0.5
    assert Probing(serve, grpc(closed_port(), timeout_s=1.0)).ask().status == 500
    assert 1.0 <= time.monotonic() - began_s < 3


def never(_: Mapping[str, str], __: bytes) -> None:
    return None


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (grpc_health(1, "12"), "server does not implement the grpc health protocol (grpc.health.v1.Health)"),
        (grpc_health(1, "4"), "grpc request not finished within timeout"),
        (grpc_health(1, "14"), "grpc probe failed: rpc error: code = Unavailable desc = no"),
        (never, "grpc request not finished within timeout"),
    ],
)
def test_a_failing_grpc_probe_says_why(
    serve: Start,
    capfd: pytest.CaptureFixture[str],
    answer: Callable[[Mapping[str, str], bytes], Reply | None],
    line: str,
) -> None:
    with H2Peer(answer) as app:
        assert Probing(serve, grpc(app.port, timeout_s=0.5)).ask().status == 500
    assert f"\terror\tprobes\t{line}" in capfd.readouterr().out


def test_the_grpc_library_itself_is_understood(serve: Start) -> None:
    from concurrent import futures

    from tests.support.grpc_health import health_server

    with health_server({"": 1, "sick": 2}, futures.ThreadPoolExecutor(2)) as port:
        assert Probing(serve, grpc(port)).ask().status == 200
        assert Probing(serve, grpc(port, "sick")).ask().status == 500
        assert Probing(serve, grpc(port, "unknown")).ask().status == 500


def test_an_unknown_probe_is_400_with_its_path_and_so_is_one_with_a_slash_behind() -> None:
    probes = AppProbes(AppProbeOptions(probers={READY: tcp(1)}))
    for path in ("/app-health/other/readyz", f"{READY}/"):
        answer = probes.answer(Request(method="GET", path=path, query="", headers=(), peer="10.0.0.1"))
        assert (answer.status, answer.body) == (
            400,
            f"app prober config does not exists for {path}".encode(),
        )
