"""Tokens from the metadata server: fetched, kept for the xDS side, renewed before they end."""

import base64
import json
import stat
import time
from pathlib import Path

import pytest

from pilot_agent.security.gce_token import is_due, refresh, token_of
from pilot_agent.security.work import TokenRequest, encode
from tests.support.http_peer import HttpPeer

NOW_S = 1_800_000_000.0


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize(
    ("token", "due"),
    [
        (jwt(exp=NOW_S + 3600), False),
        (jwt(exp=NOW_S + 24 * 60), True),
        (jwt(exp=NOW_S - 1), True),
        (jwt(sub="x"), True),
        (jwt(exp="soon"), True),
        ("", True),
        ("no.jwt", True),
    ],
    ids=["an hour left", "24 minutes left", "expired", "no end", "an end that is none", "empty", "garbage"],
)
def test_a_token_is_due_25_minutes_before_its_end_or_when_nobody_can_say(token: str, due: bool) -> None:
    assert is_due(token, NOW_S) is due


def answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_a_token_is_fetched_for_the_trust_domain_and_kept_until_it_is_due(tmp_path: Path) -> None:
    path, token = tmp_path / "tokens" / "istio-token", jwt(exp=time.time() + 3600)
    with HttpPeer(lambda _request: answer("200 OK", token)) as server:
        wanted = TokenRequest(f"127.0.0.1:{server.port}", "cluster.local", str(path))
        assert refresh(encode(wanted)) == b""
        refresh(encode(wanted))
        assert len(server.requests) == 1
        assert token_of(wanted) == token
    head = server.requests[0].decode()
    assert head.startswith(
        "GET /computeMetadata/v1/instance/service-accounts/default/identity"
        "?audience=cluster.local&format=full HTTP/1.1"
    )
    assert "metadata-flavor: google" in head.lower()
    assert path.read_text() == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 & ~_umask()
    assert [each.name for each in path.parent.iterdir()] == ["istio-token"]


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("status", ["500 Oops", "404 Not Found"])
def test_without_an_answer_the_kept_token_is_used_and_the_log_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], status: str
) -> None:
    path = tmp_path / "istio-token"
    path.write_text("kept")
    with HttpPeer(lambda _request: answer(status, "")) as server:
        wanted = TokenRequest(f"127.0.0.1:{server.port}", "cluster.local", str(path))
        assert token_of(wanted) == "kept"
        refresh(encode(wanted))
    assert capfd.readouterr().out.count(f"status got={status[:3]} expected=200") == 2
    assert path.read_text() == "kept"
