"""Paths, the loopback rule and the reference's refusals."""

import pytest

from pilot_agent.status.messages import Answer, Request
from pilot_agent.status.routing import Route, answer, clean_path

ROUTES = (
    Route(path="/metrics", handler=lambda _: Answer(body=b"metrics")),
    Route(path="/quit", handler=lambda _: Answer(body=b"OK"), loopback_only=True, method="POST"),
    Route(path="/app-health/", handler=lambda request: Answer(body=request.path.encode())),
    Route(path="/app-health/deep/", handler=lambda _: Answer(body=b"deep")),
)


def ask(path: str, *, method: str = "GET", peer: str = "127.0.0.1", query: str = "") -> Answer:
    return answer(ROUTES, Request(method=method, path=path, query=query, headers=(), peer=peer))


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metric", "/nothing", "*"])
def test_what_is_not_there_is_the_404_of_go(path: str) -> None:
    if path == "*":
        assert ask(path).status in (307, 404)
        return
    found = ask(path)
    assert (found.status, found.body) == (404, b"404 page not found\n")
    assert found.content_type == "text/plain; charset=utf-8"
    assert found.headers == (("X-Content-Type-Options", "nosniff"),)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "BREW"])
def test_a_route_without_a_method_takes_any(method: str) -> None:
    assert ask("/metrics", method=method).body == b"metrics"


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "fe80::1%eth0", "0.0.0.0", "no address"]
)
def test_the_loopback_rule_comes_before_the_method(peer: str) -> None:
    for method in ("GET", "POST"):
        refused = ask("/quit", method=method, peer=peer)
        assert (refused.status, refused.body) == (403, b"Only requests from localhost are allowed\n")
        assert refused.headers == (("X-Content-Type-Options", "nosniff"),)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_the_peers_address_in_any_form(peer: str) -> None:
    assert ask("/quit", method="POST", peer=peer).body == b"OK"
    refused = ask("/quit", peer=peer)
    assert (refused.status, refused.body) == (405, b"Method Not Allowed\n")


def test_the_longest_prefix_answers() -> None:
    assert ask("/app-health/x/readyz").body == b"/app-health/x/readyz"
    assert ask("/app-health/deep/x").body == b"deep"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/app-health", "/app-health/"),
        ("//metrics", "/metrics"),
        ("/a/../metrics", "/metrics"),
        ("/./app-health//x/", "/app-health/x/"),
        ("", "/"),
        ("metrics", "/metrics"),
    ],
)
def test_a_path_that_is_not_clean_is_redirected(path: str, target: str) -> None:
    moved = ask(path, query="a=b&c")
    assert moved.status == 307
    assert dict(moved.headers)["Location"] == f"{target}?a=b&c"
    assert moved.body == f'<a href="{target}?a=b&amp;c">Temporary Redirect</a>.\n\n'.encode()
    assert ask(path, method="POST").body == b""


@pytest.mark.parametrize(
    ("path", "clean"),
    [("/", "/"), ("//", "/"), ("/a/", "/a/"), ("/a/.", "/a"), ("/..", "/"), ("/a/b/../c", "/a/c")],
)
def test_paths_are_cleaned_as_go_does(path: str, clean: str) -> None:
    assert clean_path(path) == clean
