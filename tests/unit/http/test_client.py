"""The HTTP client against real sockets."""

import time

import pytest

from pilot_agent.http import (
    ConnectError,
    Dialing,
    HttpError,
    HttpTimeoutError,
    ProtocolError,
    RedirectError,
    ResponseTooLargeError,
    as_url_error,
    fetch,
    open_exchange,
    url_of,
)
from tests.support.http_peer import HttpPeer, closed_port, reply


def get(peer: HttpPeer, target: str = "/x", **options: object) -> object:
    return fetch(peer.host, peer.port, "GET", target, timeout_s=5, limit_bytes=1000, **options)  # type: ignore[arg-type]


def test_a_request_carries_method_target_headers_and_body_as_given() -> None:
    with HttpPeer(lambda _: reply("200 OK", b"fine", "X-Kept: a")) as peer:
        answer = fetch(
            peer.host,
            peer.port,
            "PoST",
            "/stats?usedonly&filter=^(a|b)\\.c$",
            body=b"hello",
            headers=[("X-Twice", "1"), ("X-Twice", "2")],
            timeout_s=5,
            limit_bytes=1000,
        )
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b"fine")
    assert answer.header("x-kept") == "a"
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "PoST /stats?usedonly&filter=^(a|b)\\.c$ HTTP/1.1"
    assert f"Host: 127.0.0.1:{peer.port}" in lines
    assert "Connection: close" in lines
    assert [line for line in lines if line.startswith("X-Twice")] == ["X-Twice: 1", "X-Twice: 2"]
    assert body == b"hello"


def test_a_chunked_body_is_joined() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with HttpPeer(lambda _: chunked) as peer:
        assert get(peer).body == b"abcde"  # type: ignore[attr-defined]


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    with HttpPeer(lambda _: b"HTTP/1.0 200 OK\r\n\r\nall of it") as peer:
        assert get(peer).body == b"all of it"  # type: ignore[attr-defined]


def test_an_informational_answer_is_passed_over() -> None:
    with HttpPeer(lambda _: b"HTTP/1.1 100 Continue\r\n\r\n" + reply("204 No Content")) as peer:
        assert get(peer).status == 204  # type: ignore[attr-defined]


def test_nobody_listening_is_told_in_the_words_of_go() -> None:
    port = closed_port()
    with pytest.raises(ConnectError) as caught:
        fetch("127.0.0.1", port, "GET", "/x", timeout_s=1, limit_bytes=10)
    text = as_url_error("GET", url_of("127.0.0.1", port, "/x"), caught.value)
    assert text == (
        f'Get "http://127.0.0.1:{port}/x": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )


def test_a_silent_peer_costs_no_more_than_the_time_limit() -> None:
    began = time.monotonic()
    with HttpPeer(lambda _: None) as peer, pytest.raises(HttpTimeoutError, match="context deadline exceeded"):
        fetch(peer.host, peer.port, "GET", "/", timeout_s=0.2, limit_bytes=10)
    assert 0.2 <= time.monotonic() - began < 3


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 20", b"SSH-2.0-OpenSSH\r\n\r\n", reply("200 OK", b"abc")[:-1]],
    ids=["nothing", "half a head", "another protocol", "body cut off"],
)
def test_what_is_no_whole_answer_is_a_protocol_error(answer: bytes) -> None:
    with HttpPeer(lambda _: answer) as peer, pytest.raises(ProtocolError):
        get(peer)


def test_headers_without_end_are_refused() -> None:
    endless = b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 200_000
    with HttpPeer(lambda _: endless) as peer, pytest.raises(ProtocolError):
        get(peer)


def test_a_body_above_the_limit_is_refused_or_cut() -> None:
    with HttpPeer(lambda _: reply("200 OK", b"x" * 1001)) as peer:
        with pytest.raises(ResponseTooLargeError, match="exceeds 1000 bytes"):
            get(peer)
        assert len(get(peer, truncate=True).body) == 1000  # type: ignore[attr-defined]
    with HttpPeer(lambda _: reply("200 OK", b"x" * 1000)) as peer:
        assert len(get(peer).body) == 1000  # type: ignore[attr-defined]


def test_a_method_that_is_no_token_is_refused_before_any_call() -> None:
    with pytest.raises(ProtocolError, match='net/http: invalid method "BAD METHOD"'):
        fetch("127.0.0.1", 9, "BAD METHOD", "/", timeout_s=1, limit_bytes=10)


def test_a_header_cannot_smuggle_another() -> None:
    with pytest.raises(ProtocolError):
        fetch("127.0.0.1", 9, "GET", "/", headers=[("A", "b\r\nC: d")], timeout_s=1, limit_bytes=10)


@pytest.mark.parametrize(("status", "method"), [("302 Found", "GET"), ("307 Temporary Redirect", "POST")])
def test_redirects_are_followed_when_asked_for(status: str, method: str) -> None:
    def answer(request: bytes) -> bytes:
        return reply("200 OK", b"there") if b" /there?a=b " in request else moved

    moved = reply(status, b"", "Location: /there?a=b")
    with HttpPeer(answer) as peer:
        options = {"body": b"data", "timeout_s": 5, "limit_bytes": 100}
        followed = fetch(peer.host, peer.port, "POST", "/", max_redirects=10, **options)  # type: ignore[arg-type]
        kept = fetch(peer.host, peer.port, "POST", "/", **options)  # type: ignore[arg-type]
    assert (followed.status, followed.body) == (200, b"there")
    assert kept.status == int(status[:3])
    assert peer.requests[1].startswith(f"{method} /there?a=b ".encode())
    assert peer.requests[1].endswith(b"data") == (method == "POST")


def test_redirects_without_end_are_given_up() -> None:
    with HttpPeer(lambda _: reply("302 Found", b"", "Location: /again")) as peer:
        with pytest.raises(RedirectError, match="stopped after 10 redirects"):
            get(peer, max_redirects=10)
        assert len(peer.requests) == 10


def test_a_redirect_without_location_is_the_answer() -> None:
    with HttpPeer(lambda _: reply("302 Found")) as peer:
        assert get(peer, max_redirects=10).status == 302  # type: ignore[attr-defined]


def test_the_source_address_is_bound() -> None:
    with HttpPeer(lambda _: reply("200 OK")) as peer:
        get(peer, dialing=Dialing(source_address="127.0.0.6", linger_s=1))
    assert peer.peers == ["127.0.0.6"]


def test_ipv6_addresses_get_their_brackets() -> None:
    with HttpPeer(lambda _: reply("200 OK"), host="::1") as peer:
        get(peer)
    assert f"Host: [::1]:{peer.port}".encode() in peer.requests[0]


def test_a_streamed_answer_gives_its_head_before_its_body() -> None:
    with (
        HttpPeer(lambda _: reply("200 OK", b"y" * 300_000, "Content-Type: text/plain")) as peer,
        open_exchange(peer.host, peer.port, "GET", "/", timeout_s=5) as exchange,
    ):
        assert (exchange.status, exchange.header("content-type")) == (200, "text/plain")
        sizes = [len(chunk) for chunk in exchange.chunks()]
    assert sum(sizes) == 300_000
    assert max(sizes) <= 65_536


@pytest.mark.parametrize("host", ["a\0b", "\udcff", "x" * 300, "a..b"])
def test_a_host_that_is_no_name_is_an_error_of_ours(host: str) -> None:
    with pytest.raises(HttpError):
        fetch(host, 80, "GET", "/", timeout_s=5, limit_bytes=10, dialing=Dialing(tls=True))


@pytest.mark.parametrize("location", ["http://[::1", "http://a:b/", "//[/x", "http://\u2100/"])
def test_a_redirect_to_what_is_no_url_is_an_error_of_ours(location: str) -> None:
    with (
        HttpPeer(lambda _: reply("302 Found", b"", f"Location: {location}")) as peer,
        pytest.raises(HttpError),
    ):
        fetch(peer.host, peer.port, "GET", "/", timeout_s=5, limit_bytes=10, max_redirects=10)
