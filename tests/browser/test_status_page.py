"""The status page in a real browser, on a real agent: opened, read, and seen to change."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.istiod import Istiod
from lab.mesh import load_mesh
from tests.scenarios.conftest import agent_for
from tests.support.agent import ROLES, RealAgent, short_directory
from tests.support.chromium import Browser, chromium_path
from tests.support.http_peer import HttpPeer, reply
from tests.support.real_envoy import PortMap
from tests.support.status_client import get
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(chromium_path() is None, reason="wants chromium (apt-get install chromium)"),
]
PATH = "/app-health/productpage/readyz"
ERRORS = "addEventListener('error', e => (window.seen = (window.seen || '') + e.message)); 0"
LOADED_FROM = "performance.getEntriesByType('resource').map(e => e.name).join(' ')"


@pytest.fixture
def agent() -> Iterator[RealAgent]:
    with (
        short_directory() as directory,
        Istiod(load_mesh().with_ports(PortMap())) as istiod,
        HttpPeer(lambda _: reply("200 OK")) as app,
    ):
        probers = json.dumps({PATH: {"httpGet": {"port": app.port}, "timeoutSeconds": 1}})
        with agent_for(istiod, directory, environment={"ISTIO_KUBE_APP_PROBERS": probers}) as agent:
            agent.wait_ready()
            get(agent.status_port, PATH)
            yield agent


def url(agent: RealAgent) -> str:
    return f"http://127.0.0.1:{agent.status_port}/status"


def test_a_person_reads_the_page_and_sees_an_actor_die_and_come_back(agent: RealAgent) -> None:
    with Browser() as browser:
        browser.look_like(width=1280, height=1400, dark=False)
        browser.open(url(agent))
        wait_for(lambda: "Ready" in browser.text() and "LDS" in browser.text(), what="the page")
        browser.evaluate(ERRORS)
        text = browser.text()
        for words in (
            *ROLES,
            "supervisor",
            "generation 0",
            "next rotation",
            "CDS",
            PATH,
            "Envoy generation 0",
        ):
            assert words in text, words
        assert browser.evaluate("document.title") == "ready · pilot-agent"
        assert "BEGIN" not in text
        old = agent.actor_pid("cert")
        os.kill(old, signal.SIGKILL)
        wait_for(
            lambda: "actor cert was started again, 1 times now" in browser.text(),
            within_s=10,
            what="the news, without a reload",
        )
        row = "[...document.querySelectorAll('#actors tr')].find(r => r.innerText.includes('cert')).innerText"
        wait_for(lambda: str(agent.actor_pid("cert")) in browser.evaluate(row), what="the new pid")
        assert browser.evaluate("window.seen || ''") == ""
        assert set(browser.evaluate(LOADED_FROM).split()) == {f"{url(agent)}?format=json"}


def test_it_says_when_the_agent_is_gone(agent: RealAgent) -> None:
    with Browser() as browser:
        browser.open(url(agent))
        wait_for(lambda: "Ready" in browser.text(), what="the page")
        assert agent.quit() == 0
        wait_for(lambda: "The agent has not answered for" in browser.text(), what="the warning")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_follows_the_theme(
    agent: RealAgent, tmp_path: Path, width: int, dark: bool
) -> None:
    with Browser() as browser:
        browser.look_like(width=width, height=900, dark=dark)
        browser.open(url(agent))
        wait_for(lambda: "LDS" in browser.text(), what="the page")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, (
            "nobody has to scroll sideways"
        )
        back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, back.strip("rgb()").split(","))) < 200) is dark
        picture = tmp_path / "page.png"
        browser.screenshot(picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
        if folder := os.environ.get("PILOT_AGENT_SCREENSHOTS"):
            theme = "dark" if dark else "light"
            (Path(folder) / f"status-{width}-{theme}.png").write_bytes(picture.read_bytes())
