import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pilot_agent.http import ConnectError, Deadline
from pilot_agent.http.proxy import address_of, dial, proxy_for

PROXY = {"HTTPS_PROXY": "http://proxy.example:3128"}


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("istiod.istio-system.svc", "", False),
        ("localhost", "", True),
        ("127.0.0.9", "", True),
        ("::1", "", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "11.0.0.0/8,bad/99", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::5", "fd00::/8", True),
        ("fd00::5", "[fd00::5]:15012", True),
        ("istiod.istio-system.svc", "svc", True),
        ("istiod.istio-system.svc", ".svc", True),
        ("istiod.istio-system.svc", "*.svc", True),
        ("istiod.istio-system.svc", "vc", False),
        ("svc", ".svc", False),
        ("Istiod.SVC", "other, istiod.svc", True),
        ("istiod.svc", "istiod.svc:15012", True),
        ("istiod.svc", "istiod.svc:443", False),
        ("istiod.svc", "*", True),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(host: str, no_proxy: str, direct: bool) -> None:
    assert (proxy_for(host, 15012, PROXY | {"NO_PROXY": no_proxy}) is None) is direct


@pytest.mark.parametrize(
    ("value", "address"),
    [("proxy", ("proxy", 80)), ("proxy:3128", ("proxy", 3128)), ("http://[::1]:8080/", ("::1", 8080))],
)
def test_a_proxy_may_be_named_without_a_scheme_and_in_lower_case(
    value: str, address: tuple[str, int]
) -> None:
    found = proxy_for("istiod.svc", 15012, {"https_proxy": value})
    assert found is not None
    assert address_of(found) == address


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "http://", "http://proxy:99999", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_an_error(value: str) -> None:
    with pytest.raises(ConnectError, match="HTTPS_PROXY names no proxy"):
        proxy_for("istiod.svc", 15012, {"HTTPS_PROXY": value})


@contextmanager
def proxy_that(answer: Callable[[bytes], bytes]) -> Iterator[dict[str, str]]:
    """Serve one client; yields the environment that names this proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            end, _ = listener.accept()
            with end, contextlib.suppress(ConnectionError):
                asked = b""
                while not asked.endswith(b"\r\n\r\n"):
                    asked += end.recv(1)
                end.sendall(answer(asked))
                end.settimeout(10)
                end.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield {"HTTPS_PROXY": f"http://user:p%40ss@127.0.0.1:{listener.getsockname()[1]}"}
        thread.join(10)


def test_a_connection_goes_through_the_proxy_and_nothing_of_the_peer_is_swallowed() -> None:
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        asked.append(request)
        return b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst words"

    with proxy_that(answer) as environment, dial("istiod.svc", 15012, Deadline(10), environment) as sock:
        assert sock.recv(11) == b"first words"
    assert asked[0].startswith(b"CONNECT istiod.svc:15012 HTTP/1.1\r\nHost: istiod.svc:15012\r\n")
    assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in asked[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refuses CONNECT .* 407"),
        (b"x" * 20_000, "no answer"),
    ],
)
def test_a_proxy_that_says_no_is_named_and_its_password_is_not(answer: bytes, words: str) -> None:
    with proxy_that(lambda _: answer) as environment, pytest.raises(ConnectError, match=words) as error:
        dial("istiod.svc", 15012, Deadline(10), environment)
    assert "p@ss" not in str(error.value)
    assert "p%40ss" not in str(error.value)


def test_each_address_of_a_name_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # `localhost` is ::1, too
        port = listener.getsockname()[1]
        with dial("localhost", port, Deadline(10), {}) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)
    with pytest.raises(ConnectError, match=f":{port}: connect: connection refused"):
        dial("localhost", port, Deadline(10), {})
