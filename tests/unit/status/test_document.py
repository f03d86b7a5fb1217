"""The status document: its schema, its history, its page."""

from pathlib import Path

import msgspec
import pytest

from pilot_agent.status.document import StatusDocument, schema
from pilot_agent.status.history import History
from pilot_agent.status.messages import Request
from pilot_agent.status.view import PAGE_HEADERS, names_this_machine, page, wants_page
from tests.support.status_client import ask, get
from tests.unit.status.conftest import Start
from tests.unit.status.test_pages import DOCUMENT, Port

ROOT = Path(__file__).parents[3]


def test_the_written_schema_is_that_of_the_document() -> None:
    """Make it anew with `python -m pilot_agent.status.document`."""
    file = ROOT / "docs" / "status.schema.json"
    if not file.is_file():
        pytest.skip("docs/ is not beside an installed package")
    assert msgspec.json.decode(file.read_bytes()) == schema()


def test_json_is_what_is_served_and_reads_back(serve: Start) -> None:
    found = get(Port(serve).port, "/status")
    assert found.headers["Content-Type"] == "application/json"
    assert found.headers["Cache-Control"] == "no-store"
    assert msgspec.json.decode(found.body, type=StatusDocument) == DOCUMENT


@pytest.mark.parametrize(
    ("accept", "query", "html"),
    [
        ("*/*", "", False),
        ("", "", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "", True),
        ("application/json, text/html", "", False),
        ("text/html", "?format=json", False),
        ("*/*", "?format=html", True),
    ],
)
def test_a_browser_gets_the_page_and_a_tool_the_json(
    serve: Start, accept: str, query: str, html: bool
) -> None:
    found = get(Port(serve).port, f"/status{query}", f"Accept: {accept}")
    assert found.headers["Content-Type"].startswith("text/html" if html else "application/json")
    if html:
        assert found.body == page()
        assert "default-src 'none'" in found.headers["Content-Security-Policy"]


def test_the_page_names_no_address_elsewhere() -> None:
    text = page().decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "innerHTML" not in text
    assert dict(PAGE_HEADERS)["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:15020", True),
        ("LOCALHOST", True),
        ("127.0.0.1:15020", True),
        ("[::1]:15020", True),
        ("[::1]", True),
        ("10.0.0.7", True),
        ("", True),
        ("rebound.evil.test:15020", False),
        ("localhost.evil.test", False),
    ],
)
def test_a_site_whose_name_leads_here_cannot_read_the_page(serve: Start, host: str, expected: bool) -> None:
    assert names_this_machine(host) is expected
    port = Port(serve).port
    answer = ask(port, f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert answer.status == (200 if expected else 403)


def test_the_page_can_be_opened_to_all() -> None:
    from pilot_agent.status.counters import Counters
    from pilot_agent.status.options import StatusOptions
    from pilot_agent.status.pages import Pages
    from tests.unit.status.test_pages import Backend

    pages = Pages(StatusOptions(status_for_all=True), Backend(), Counters({}), lambda: None)
    request = Request(method="GET", path="/status", query="", headers=(("host", "pod.a"),), peer="10.0.0.1")
    assert pages.answer(request).status == 200
    assert wants_page(request) is False


def test_a_generation_is_told_from_its_start_to_its_end() -> None:
    history = History().started(0, 0, 7, 1.0).earned(0, 2.0).went_live(0, 3.0)
    assert [(row.state, row.live_unix_s, row.ready_unix_s) for row in history.envoys] == [("ready", 3.0, 2.0)]
    history = history.started(1, 1, 8, 10.0).went_live(1, 11.0)
    assert [row.state for row in history.envoys] == ["draining", "live"]
    history = history.earned(1, 12.0).exited(0, "exit status 0", 20.0).exited(0, "again", 21.0)
    assert [(row.state, row.end) for row in history.envoys] == [("ended", "exit status 0"), ("ready", "")]
    assert [event.text for event in history.events] == [
        "Envoy generation 0 (epoch 0, pid 7) was started",
        "Envoy generation 0 is LIVE",
        "Envoy generation 1 (epoch 1, pid 8) was started",
        "Envoy generation 1 is LIVE",
        "Envoy generation 0 has ended: exit status 0",
    ]
    assert history.exited(1, "signal: killed", 30.0).events[-1].level == "error"


def test_history_is_bounded_whatever_happens() -> None:
    history = History()
    for n in range(200):
        history = history.started(n, 0, n, float(n)).exited(n, "signal: killed", n + 0.5)
    history = history.started(200, 0, 1, 200.0).with_event(1.0, "xds", "x" * 5000)
    assert len(history.events) == 50
    assert len(history.envoys) == 12
    assert history.envoys[-1].state == "starting"
    assert len(history.events[-1].text) == 400
    assert len(msgspec.msgpack.encode(history)) < 40_000
