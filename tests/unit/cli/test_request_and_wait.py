"""`request` and `wait` against real sockets, in real processes."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pilot_agent.cli.errors import CliError
from pilot_agent.cli.fetch import Answer, fetch
from pilot_agent.cli.url import UrlError, parse_url
from tests.support.cli import PROGRAM, run_agent
from tests.support.http_peer import HttpPeer, closed_port, reply

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
Answering = Callable[[Callable[[bytes], bytes | None]], HttpPeer]


@pytest.fixture
def allowed_peer() -> Iterator[Answering]:
    """Make a peer on one of the four ports that `request` may ask; at least one must be free."""
    peers: list[HttpPeer] = []

    def start(answer: Callable[[bytes], bytes | None]) -> HttpPeer:
        for port in (15004, 15000, 15021, 15020):
            try:
                peers.append(HttpPeer(answer, port=port))
            except OSError:
                continue
            return peers[-1]
        raise AssertionError("15000, 15004, 15020 and 15021 are all taken")

    yield start
    for peer in peers:
        peer.close()


def get(peer: HttpPeer, *, path: str = "/", timeout_s: float | None = 10.0) -> Answer:
    return fetch("GET", f"http://127.0.0.1:{peer.port}{path}", timeout_s=timeout_s)


def test_request_prints_the_body_and_one_line_feed(allowed_peer: Answering) -> None:
    peer = allowed_peer(lambda _: reply("200 OK", b"a\nb"))
    ended = run_agent("request", f"--debug-port={peer.port}", "GET", "/config_dump?mask=a b&c")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "a\nb\n", "")
    head = peer.requests[0].decode().split("\r\n")
    assert head[0] == "GET /config_dump?mask=a%20b&c HTTP/1.1"
    assert f"Host: localhost:{peer.port}" in head
    assert not any(line.lower().startswith("content-length") for line in head)


def test_request_sends_method_and_body_as_typed_and_ignores_a_fourth_word(allowed_peer: Answering) -> None:
    peer = allowed_peer(lambda _: reply("200 OK"))
    ended = run_agent("request", "--debug-port", str(peer.port), "Post", "//drain", "gra\u00e7eful", "more")
    assert (ended.returncode, ended.stdout) == (0, "\n")
    assert peer.requests[0].startswith(b"Post //drain HTTP/1.1\r\n")
    assert b"Content-Length: 9\r\n" in peer.requests[0]
    assert peer.requests[0].endswith("\r\n\r\ngra\u00e7eful".encode())


def test_post_without_a_body_says_that_there_is_none(allowed_peer: Answering) -> None:
    peer = allowed_peer(lambda _: reply("200 OK"))
    run_agent("request", f"--debug-port={peer.port}", "POST", "drain")
    assert b"Content-Length: 0\r\n" in peer.requests[0]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "404 Not Found"])
def test_request_takes_404_for_an_answer(allowed_peer: Answering, status: str) -> None:
    peer = allowed_peer(lambda _: reply(status, b"nope" if status[0] == "4" else b""))
    ended = run_agent("request", f"--debug-port={peer.port}", "GET", "x")
    assert ended.returncode == 0
    assert ended.stdout == ("nope\n" if status[0] == "4" else "\n")


def test_request_fails_on_other_statuses_with_the_body_in_the_text(allowed_peer: Answering) -> None:
    peer = allowed_peer(lambda _: reply("503 Service Unavailable", b"no\xff"))
    ended = run_agent("request", f"--debug-port={peer.port}", "GET", "x")
    text = "received unsuccessful status code 503: no\ufffd"
    assert (ended.returncode, ended.stderr) == (255, f"Error: {text}\n")
    assert re.fullmatch(rf"{TIMESTAMP}\terror\t{text}\n", ended.stdout)


def test_wait_returns_when_the_answer_is_200_and_pauses_before_each_request() -> None:
    answers = iter([reply("503 Service Unavailable"), reply("204 No Content"), reply("200 OK", b"ready")])
    with HttpPeer(lambda _: next(answers)) as peer:
        began_s = time.monotonic()
        ended = run_agent(
            "wait", f"--url=http://localhost:{peer.port}/r", "--periodMillis=100", "more", "words"
        )
        took_s = time.monotonic() - began_s
    assert (ended.returncode, ended.stderr, len(peer.requests)) == (0, "", 3)
    assert took_s >= 0.3
    first, second = ended.stdout.splitlines()
    assert re.fullmatch(
        rf"{TIMESTAMP}\tinfo\tWaiting for Envoy proxy to be ready \(timeout: 60 seconds\)\.\.\.", first
    )
    assert re.fullmatch(rf"{TIMESTAMP}\tinfo\tEnvoy is ready!", second)


def wait_error(*words: str) -> str:
    ended = run_agent("wait", *words)
    assert ended.returncode == 255
    assert ended.stdout.count("\n") == 2
    head = "Error: timeout waiting for Envoy proxy to become ready. Last error: "
    assert ended.stderr.startswith(head)
    return ended.stderr.removeprefix(head).rstrip("\n")


def test_wait_ends_with_the_last_reason_when_the_time_is_over() -> None:
    port = closed_port()
    url = f"http://127.0.0.1:{port}/"
    refused = f'Get "{url}": dial tcp 127.0.0.1:{port}: connect: connection refused'
    assert wait_error("--timeoutSeconds=1", "--periodMillis=200", "--url", url) == refused
    with HttpPeer(lambda _: reply("500 Internal Server Error")) as peer:
        url = f"http://127.0.0.1:{peer.port}/"
        assert wait_error("--timeoutSeconds=1", f"--url={url}") == "HTTP status code 500"


def test_wait_never_asks_when_the_pause_is_longer_than_the_limit() -> None:
    assert wait_error("--timeoutSeconds=1", "--periodMillis=5000") == "<nil>"
    assert wait_error("--timeoutSeconds=0") == "<nil>"
    assert wait_error("--timeoutSeconds=-1") == "<nil>"


def test_wait_gives_up_a_request_that_is_not_answered_in_time() -> None:
    with HttpPeer(lambda _: None) as peer:
        url = f"http://127.0.0.1:{peer.port}/"
        found = wait_error(
            "--timeoutSeconds=1", "--periodMillis=10", "--requestTimeoutMillis=50", f"--url={url}"
        )
    late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    assert found == f'Get "{url}": {late}'
    assert len(peer.requests) > 2


@pytest.mark.parametrize("words", [["--timeoutSeconds=9223372036854775807"], ["--periodMillis=-1"]])
def test_wait_takes_the_largest_numbers(words: list[str]) -> None:
    with HttpPeer(lambda _: reply("200 OK")) as peer:
        large = "--requestTimeoutMillis=9223372036854775807"
        assert run_agent("wait", f"--url=http://127.0.0.1:{peer.port}", large, *words).returncode == 0


def test_wait_refuses_what_is_no_url_only_when_the_time_is_over() -> None:
    assert (
        wait_error("--timeoutSeconds=1", "--url=ftp://x")
        == 'Get "ftp://x": unsupported protocol scheme "ftp"'
    )


def test_wait_ends_on_a_signal_without_words() -> None:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.terminate()
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (-15, b"")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED + b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n", b"abcde"),
        (CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nabcdef", b"ab"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", b""),
    ],
    ids=["chunked", "hexadecimal", "until closed", "bare line feeds", "interim answer", "no reason"],
)
def test_a_body_is_read_in_each_framing(answer: bytes, body: bytes) -> None:
    with HttpPeer(lambda _: answer) as peer:
        assert get(peer) == Answer(200, body)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "EOF"),
        (b"HTTP/1.1 200 OK\r\nConte", "unexpected EOF"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "unexpected EOF"),
        (CHUNKED + b"5\r\nabc", "unexpected EOF"),
        (CHUNKED + b"5\r\nabcdefgh\r\n0\r\n\r\n", "malformed chunked encoding"),
        (CHUNKED + b"xyz\r\n", "invalid byte in chunk length"),
        (CHUNKED + b"-5\r\n", "invalid byte in chunk length"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 'malformed HTTP response "SSH-2.0-OpenSSH"'),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", 'malformed HTTP status code "2x0"'),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 'bad Content-Length "-1"'),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "malformed MIME header: no colon"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_answer_is_an_error_that_tells_what_was_wrong(answer: bytes, text: str) -> None:
    with HttpPeer(lambda _: answer) as peer, pytest.raises(CliError) as raised:
        get(peer)
    assert str(raised.value).endswith(text)


def test_the_time_limit_holds_in_the_middle_of_a_body() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = subprocess.Popen(
        [sys.executable, "-c", _SLOW_SERVER], stdin=listener.fileno(), stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    try:
        with listener, pytest.raises(CliError, match="while reading body"):
            fetch("GET", url, timeout_s=2.0)
    finally:
        server.kill()
        server.wait()


_SLOW_SERVER = """
import socket
connection, _ = socket.socket(fileno=0).accept()
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nabc")
connection.recv(1 << 16)
connection.recv(1 << 16)
"""


def test_redirects_are_followed_and_turn_into_get_or_repeat_the_request() -> None:
    def answer(request: bytes) -> bytes:
        line = request.split(b"\r\n", 1)[0].decode()
        return {
            "POST /a HTTP/1.1": reply("307 Temporary Redirect", b"", "Location: /b?x=1"),
            "POST /b?x=1 HTTP/1.1": reply("303 See Other", b"", "Location: c"),
            "GET /c HTTP/1.1": reply("200 OK", request.partition(b"\r\n\r\n")[2] + b"done"),
        }[line]

    with HttpPeer(answer) as peer:
        assert fetch("POST", f"http://127.0.0.1:{peer.port}/a", b"body", timeout_s=10.0) == Answer(
            200, b"done"
        )
    assert peer.requests[1].endswith(b"\r\n\r\nbody")


def test_ten_requests_and_no_more_are_sent_round_a_circle() -> None:
    with (
        HttpPeer(lambda _: reply("302 Found", b"", "Location: /")) as peer,
        pytest.raises(CliError) as raised,
    ):
        get(peer)
    assert str(raised.value) == f'Get "http://127.0.0.1:{peer.port}/": stopped after 10 redirects'
    assert len(peer.requests) == 10


def test_a_redirect_to_what_is_no_url_is_an_error() -> None:
    with (
        HttpPeer(lambda _: reply("302 Found", b"", "Location: http://[::1")) as peer,
        pytest.raises(CliError, match="failed to parse Location header"),
    ):
        get(peer)


def test_a_redirect_to_nowhere_is_an_answer() -> None:
    with HttpPeer(lambda _: reply("302 Found", b"here")) as peer:
        assert get(peer) == Answer(302, b"here")


def test_an_answer_to_head_has_no_body() -> None:
    with HttpPeer(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") as peer:
        assert fetch("HEAD", f"http://127.0.0.1:{peer.port}", timeout_s=10.0) == Answer(200, b"")


@pytest.mark.parametrize(
    ("text", "authority", "host", "port", "target"),
    [
        ("http://localhost", "localhost", "localhost", 80, "/"),
        ("https://[::1]/a", "[::1]", "::1", 443, "/a"),
        ("HTTP://u:p@h:8080?q#f", "h:8080", "h", 8080, "/?q"),
        ("http://h:1/a b%20\u00e9?x=\u00e9 y", "h:1", "h", 1, "/a%20b%20%C3%A9?x=%C3%A9%20y"),
    ],
)
def test_a_url_is_taken_apart_and_escaped(
    text: str, authority: str, host: str, port: int, target: str
) -> None:
    assert parse_url(text)[1:] == (authority, host, port, target)


@pytest.mark.parametrize(
    "text", ["", "localhost", "http://", "http://h:x/", "http://h:70000/", "http://[::1/", "http://h/\n"]
)
def test_what_is_no_url_is_told_with_its_text(text: str) -> None:
    with pytest.raises(UrlError, match=r"(parse|Get) "):
        parse_url(text)


def test_a_name_that_nobody_knows_is_told() -> None:
    with pytest.raises(CliError, match=r"dial tcp: lookup no-such-host\.invalid: no such host"):
        fetch("GET", "http://no-such-host.invalid/", timeout_s=10.0)


@pytest.mark.parametrize(("words", "path"), [([], b"/restart"), (["--rotate"], b"/rotate")])
def test_restart_asks_the_status_port_and_says_nothing(words: list[str], path: bytes) -> None:
    peer = HttpPeer(lambda _: reply("200 OK", b"OK"))
    try:
        ended = run_agent("restart", *words, f"--status-port={peer.port}")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        assert peer.requests[0].startswith(b"POST " + path + b" HTTP/1.1\r\n")
    finally:
        peer.close()


def test_restart_fails_where_no_agent_answers_or_the_answer_is_no() -> None:
    ended = run_agent("restart", f"--status-port={closed_port()}")
    assert ended.returncode == 255
    assert "connection refused" in ended.stderr
    peer = HttpPeer(lambda _: reply("405 Method Not Allowed", b"no"))
    try:
        ended = run_agent("restart", f"--status-port={peer.port}")
        assert (ended.returncode, ended.stderr) == (255, "Error: received unsuccessful status code 405: no\n")
    finally:
        peer.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--status-port=0"], "status port 0 must be in the range 1..65535"),
        (["now"], 'unknown command "now" for "pilot-agent restart"'),
        (["--now"], "unknown flag: --now"),
    ],
)
def test_restart_refuses_what_it_does_not_know(words: list[str], said: str) -> None:
    ended = run_agent("restart", *words)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (255, f"Error: {said}")
