"""Downloads over HTTP(S): attempts, limits, certificates, redirects, and servers that lie."""

import base64
import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.authority import Authority
from pilot_agent.http import Deadline
from pilot_agent.wasm.cache import Wanted
from pilot_agent.wasm.errors import WasmError
from tests.support.http_peer import closed_port
from tests.support.site import Asked, Page, Site, answer, endless, page, redirect, silent, truncated
from tests.support.wasm import CacheRig, module

ONE = module("one")
LIMIT = 4096


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def rig(tmp_path: Path) -> CacheRig:
    return CacheRig(tmp_path, {"max_binary_bytes": LIMIT, "request_timeout_s": 5.0})


def get(rig: CacheRig, url: str, timeout_s: float = 20.0) -> bytes:
    try:
        return rig.cache.get(Wanted(url=url), Deadline(timeout_s)).read_bytes()
    finally:
        assert rig.left_over() == []


def failing(times: int, status: int, then: bytes = ONE) -> Page:
    left = [times]

    def serve(asked: Asked) -> list[bytes]:
        left[0] -= 1
        return answer(b"", status) if left[0] >= 0 else answer(then)

    return serve


def test_what_fails_for_a_while_is_tried_again_with_growing_waits(rig: CacheRig, site: Site) -> None:
    site.pages["/x"] = failing(4, 503)
    assert get(rig, f"{site.url}/x") == ONE
    assert len(site.asked) == 5
    for waited_s, base_s in zip(rig.slept_s, (0.5, 0.75, 1.125, 1.6875), strict=True):
        assert 0.5 * base_s <= waited_s <= 1.5 * base_s


def test_the_last_attempt_is_the_fifth(rig: CacheRig, site: Site) -> None:
    site.pages["/x"] = failing(5, 500)
    with pytest.raises(
        WasmError, match=r"wasm module download failed after 5 attempts, last error: .*status code 500"
    ):
        get(rig, f"{site.url}/x")
    assert len(site.asked) == 5
    assert rig.fetches == {"download_failure": 1}


def test_nobody_listening_is_tried_again_too(rig: CacheRig) -> None:
    with pytest.raises(WasmError, match=r"after 5 attempts, last error: .*connection refused"):
        get(rig, f"http://127.0.0.1:{closed_port()}/x")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501, 505, 511, 204, 301])
def test_other_answers_end_it_at_once(rig: CacheRig, site: Site, status: int) -> None:
    site.pages["/x"] = page(b"", status)
    with pytest.raises(WasmError, match=f"status code {status}"):
        get(rig, f"{site.url}/x")
    assert len(site.asked) == 1


def test_waits_end_with_the_time_limit(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = page(b"", 503)
    rig = CacheRig(tmp_path)
    rig.cache._sleep = time.sleep
    began_s = time.monotonic()
    with pytest.raises(WasmError, match=r"status code 503|deadline exceeded"):  # the last may have been cut
        get(rig, f"{site.url}/x", timeout_s=0.4)
    assert time.monotonic() - began_s < 3


def test_no_time_at_all_fails_at_once_but_not_for_what_is_there(rig: CacheRig, site: Site) -> None:
    site.pages["/x"] = page(ONE)
    with pytest.raises(WasmError, match="download failed after 1 attempts"):
        get(rig, f"{site.url}/x", timeout_s=0)
    get(rig, f"{site.url}/x")
    assert get(rig, f"{site.url}/x", timeout_s=0) == ONE


def test_a_silent_server_costs_each_attempt_its_own_limit(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = silent()
    rig = CacheRig(tmp_path, {"request_timeout_s": 0.1, "request_attempts": 3})
    with pytest.raises(WasmError, match=r"after 3 attempts, last error: .*deadline exceeded"):
        get(rig, f"{site.url}/x")
    assert len(site.asked) == 3


def test_a_body_that_trickles_is_cut_by_the_same_limit(tmp_path: Path, site: Site) -> None:
    def trickle(_: Asked) -> Iterator[bytes]:
        yield answer(ONE + bytes(10_000))[0][:100]
        while True:
            time.sleep(0.01)
            yield b"\0"

    site.pages["/x"] = trickle
    rig = CacheRig(tmp_path, {"request_timeout_s": 0.2, "request_attempts": 1})
    with pytest.raises(WasmError, match="deadline exceeded"):
        get(rig, f"{site.url}/x")


def announcing(length: bytes) -> Page:
    return lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n"]


@pytest.mark.parametrize(
    "serve",
    [
        endless(),
        endless(ONE * 1000),
        page(ONE + bytes(2 << 20)),
        announcing(b"99999999999"),
    ],
    ids=["endless", "endless module", "too large", "announced too large"],
)
def test_more_than_the_limit_is_not_read_on(rig: CacheRig, site: Site, serve: Page) -> None:
    site.pages["/x"] = serve
    with pytest.raises(WasmError):
        get(rig, f"{site.url}/x")
    assert len(site.asked) == 1


def test_a_small_file_that_unpacks_to_a_huge_one_ends_at_the_limit(rig: CacheRig, site: Site) -> None:
    bomb = gzip.compress(gzip.compress(ONE + bytes(50 << 20)))
    assert len(bomb) < LIMIT
    site.pages["/x"] = page(bomb)
    with pytest.raises(WasmError, match=r"unpacks to more than|exceeds the limit"):
        get(rig, f"{site.url}/x")


@pytest.mark.parametrize(
    "serve", [truncated(ONE, 10), lambda _: [b"HTTP/1.1 200 OK\r\nContent-Le"], lambda _: [b"x"]]
)
def test_an_answer_that_breaks_off_is_tried_again(rig: CacheRig, site: Site, serve: Page) -> None:
    site.pages["/x"] = serve
    with pytest.raises(WasmError, match="after 5 attempts"):
        get(rig, f"{site.url}/x")


def test_redirects_are_followed_ten_requests_long(rig: CacheRig, site: Site) -> None:
    for number in range(8):
        site.pages[f"/{number}"] = redirect(f"/{number + 1}", (301, 302, 303, 307, 308)[number % 5])
    site.pages["/8"] = page(ONE)
    assert get(rig, f"{site.url}/0") == ONE
    site.pages["/loop"] = redirect("/loop")
    with pytest.raises(WasmError, match="stopped after 10 redirects"):
        get(rig, f"{site.url}/loop")


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://0xa9fea9fe/",
        "//100.100.100.200/",
    ],
)
def test_a_redirect_to_a_blocked_address_is_not_followed(rig: CacheRig, site: Site, location: str) -> None:
    site.pages["/x"] = redirect(location)
    with pytest.raises(WasmError, match="this address is blocked"):
        get(rig, f"{site.url}/x")
    assert rig.slept_s == []  # and not tried again


def test_user_and_password_of_a_url_are_sent_to_its_host_alone_and_stand_in_no_text(
    rig: CacheRig, site: Site
) -> None:
    with Site() as other:
        other.pages["/x"] = page(b"no module")
        site.pages["/x"] = redirect(f"{other.url}/x")
        with pytest.raises(WasmError) as caught:
            get(rig, f"http://me:p%40ss@{site.authority}/x")
    assert "ss@" not in str(caught.value)
    assert site.asked[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert "authorization" not in other.asked[0].headers


@pytest.mark.parametrize(
    ("location", "text"),
    [("file:///etc/passwd", "unsupported protocol scheme"), ("http://[::1", "failed to parse Location")],
)
def test_a_redirect_to_no_web_page_is_refused(rig: CacheRig, site: Site, location: str, text: str) -> None:
    site.pages["/x"] = redirect(location)
    with pytest.raises(WasmError, match=text):
        get(rig, f"{site.url}/x")


def test_a_configured_range_is_blocked(tmp_path: Path, site: Site) -> None:
    site.pages["/x"] = page(ONE)
    rig = CacheRig(tmp_path, {"blocked_cidrs": ("127.0.0.0/8",)})
    with pytest.raises(WasmError, match=r"127.0.0.1: this address is blocked"):
        get(rig, f"{site.url}/x")
    assert site.asked == []


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secure_site(authority: Authority) -> Iterator[Site]:
    with Site(tls=authority.issue("registry.test")) as site:
        site.pages["/x"] = page(ONE)
        yield site


def roots(tmp_path: Path, authority: Authority) -> str:
    path = tmp_path / "roots.pem"
    path.write_text(authority.root_pem)
    return str(path)


def test_a_certificate_is_verified(tmp_path: Path, authority: Authority, secure_site: Site) -> None:
    path = roots(tmp_path, authority)
    rig = CacheRig(tmp_path / "data", {"roots_path": path, "request_attempts": 1})
    assert get(rig, f"https://registry.test:{secure_site.port}/x") == ONE
    with pytest.raises(WasmError, match="certificate"):
        get(rig, f"https://127.0.0.1:{secure_site.port}/x")
    stranger = CacheRig(
        tmp_path / "other", {"roots_path": roots(tmp_path, Authority()), "request_attempts": 1}
    )
    with pytest.raises(WasmError, match="certificate"):
        get(stranger, f"https://registry.test:{secure_site.port}/x")


@pytest.mark.parametrize(
    ("listed", "is_fetched"),
    [("127.0.0.1:{port}", True), ("*", True), ("127.0.0.1", False), ("127.0.0.1:1", False), ("", False)],
)
def test_the_insecure_list_names_host_and_port(
    tmp_path: Path, secure_site: Site, listed: str, is_fetched: bool
) -> None:
    entry = listed.format(port=secure_site.port)
    rig = CacheRig(tmp_path, {"insecure_registries": (entry,) if entry else (), "request_attempts": 1})
    if is_fetched:
        assert get(rig, f"https://127.0.0.1:{secure_site.port}/x") == ONE
    else:
        with pytest.raises(WasmError, match="certificate"):
            get(rig, f"https://127.0.0.1:{secure_site.port}/x")
