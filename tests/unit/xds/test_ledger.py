"""What became of istiod's responses, for the status page."""

import pytest

from pilot_agent.wire import bytes_field, text_field, varint_field
from pilot_agent.xds.envelope import (
    read_delta_request,
    read_delta_response,
    read_sotw_request,
    read_sotw_response,
)
from pilot_agent.xds.ledger import Ledger
from pilot_agent.xds.requests import Variant, answer
from pilot_agent.xds.type_urls import LISTENER


class Page:
    def __init__(self) -> None:
        self.counted: dict[str, float] = {}
        self.notes: dict[str, str] = {}

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        key = f"{name} {labels}"
        self.counted[key] = self.counted.get(key, 0) + value

    def note(self, name: str, text: str) -> None:
        self.notes[name] = text


def push(ledger: Ledger, variant: Variant, version: str, nonce: str) -> None:
    if variant == "sotw":
        body = text_field(1, version) + bytes_field(2, b"") + text_field(4, LISTENER) + text_field(5, nonce)
        ledger.response(read_sotw_response(body))
    else:
        body = text_field(1, version) + bytes_field(2, b"") + text_field(4, LISTENER) + text_field(5, nonce)
        ledger.response(read_delta_response(body))


def ask(ledger: Ledger, variant: Variant, body: bytes) -> None:
    ledger.request(read_sotw_request(body) if variant == "sotw" else read_delta_request(body))


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_what_envoy_answers_is_noted_with_version_time_and_words(variant: Variant) -> None:
    page = Page()
    ledger = Ledger(page, now=lambda: 7.0)
    push(ledger, variant, "v1", "n1")
    ask(ledger, variant, answer(variant, LISTENER, version_info="v1", nonce="n1", error=None))
    push(ledger, variant, "v2", "n2")
    ask(ledger, variant, answer(variant, LISTENER, version_info="v1", nonce="n2", error="no, thanks"))
    assert page.notes == {
        "xds/LDS/version": "v1",
        "xds/LDS/accepted_at": "7.000",
        "xds/LDS/pushed": "v2",
        "xds/LDS/pushed_at": "7.000",
        "xds/LDS/resources": "1",
        "xds/LDS/nack": "no, thanks",
        "xds/LDS/nack_at": "7.000",
        "xds/LDS/refused": "v2",
    }
    assert page.counted == {"xds_acks {'type': 'LDS'}": 1, "xds_nacks {'type': 'LDS'}": 1}


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_first_request_is_no_answer(variant: Variant) -> None:
    page = Page()
    ledger = Ledger(page)
    ask(ledger, variant, text_field(4 if variant == "sotw" else 2, LISTENER))
    ask(ledger, variant, varint_field(9, 7))
    assert (page.notes, page.counted) == ({}, {})
