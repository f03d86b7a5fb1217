"""No secret leaves with a report, wherever it was planted; and what is none stays."""

import base64
import json

import pytest

from pilot_agent.cli.redaction import MARK, redacted, redacted_text

KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPLANTEDplantedPLANTEDplanted\n-----END EC PRIVATE KEY-----"
CHAIN = "-----BEGIN CERTIFICATE-----\nMIIBpublicMIIBpublic\n-----END CERTIFICATE-----"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.cGxhbnRlZC1zaWduYXR1cmU"
WORD = "planted-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"key: {KEY} end",
        f"cut off: {KEY[:50]}",
        f"key in one line {json.dumps(KEY)}",
        f"in base64 {base64.b64encode(KEY.encode()).decode()} end",
        f"token {JWT} was refused",
        f"Authorization: Bearer {WORD}",
        f"authorization: Basic {WORD}",
        f"sent header x-api-key: {WORD}",
        f"password={WORD}",
        f'{{"client_secret": "{WORD}", ',
        f"https://user:{WORD}@registry.test/image",
        f"GET /x?a=1&access_token={WORD}&b=2",
        f"AWS_SECRET_ACCESS_KEY={WORD}",
        f"cookie: {WORD}",
    ],
)
def test_a_secret_in_a_text_is_taken_out(text: str) -> None:
    found = redacted_text(text)
    assert MARK in found
    for secret in ("PLANTED", WORD, JWT, "cGxhbnRlZ", "UExBTlRFRA"):
        assert secret not in found


@pytest.mark.parametrize(
    "text",
    [
        "credential fetcher of JWT type in cluster.local trust domain",
        "tokens are read from token_path: var/run/secrets/tokens/istio-token",
        "secret_name=default sds_secret_config: default",
        f"certificate {CHAIN}",
        "resourceName=default latency=5ms ttl=23h59m",
        "GET /stats?usedonly&filter=x",
        'envoy_cluster_upstream_rq_total{response_code="200"} 7',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted_text(text) == text


def test_a_document_is_walked_by_its_keys() -> None:
    document = {
        "private_key": {"inline_bytes": base64.b64encode(KEY.encode()).decode()},
        "other": {"inline_string": KEY},
        "certificate_chain": {"inline_string": CHAIN},
        "headers": [
            {"key": "Authorization", "value": WORD},
            {"key": "x-b3", "value": "harmless"},
            {"key": "api-key", "raw_value": WORD, "value": ""},
        ],
        "metadata": {"API_TOKEN": WORD, "annotations": json.dumps({"my/password": WORD, "a": "b"})},
        "token_path": "/var/run/token",
        "dynamic_active_secrets": [{"name": "default", "secret": {"name": "default"}}],
        "names": ["a", JWT],
        "number": 7,
    }
    text = redacted(json.dumps(document).encode()).decode()
    for secret in ("PLANTED", WORD, JWT, "UExBTlRFRA"):
        assert secret not in text
    found = json.loads(text)
    assert found["certificate_chain"]["inline_string"] == CHAIN
    assert found["headers"][1]["value"] == "harmless"
    assert found["token_path"] == "/var/run/token"
    assert found["dynamic_active_secrets"][0]["name"] == "default"
    assert json.loads(found["metadata"]["annotations"])["a"] == "b"
    assert found["number"] == 7


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert redacted(b"\xff\xfe plain") == "\ufffd\ufffd plain".encode()
    assert redacted(b"") == b""
    assert redacted(b'"just a word"') == b'"just a word"'
