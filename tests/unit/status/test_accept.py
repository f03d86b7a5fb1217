"""What is asked of Envoy and of the application, and what the page says it is."""

import pytest

from pilot_agent.status.metrics.accept import DEFAULT, negotiated
from pilot_agent.status.metrics.formats import Format, common_format, format_of, without_eof

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


@pytest.mark.parametrize(
    ("accept", "application", "envoy"),
    [
        (
            PROMETHEUS,
            (
                "application/openmetrics-text; q=0.3; version=1.0.0,"
                "application/openmetrics-text; q=0.2; version=0.0.1,text/plain; q=0.1; version=0.0.4"
            ),
            "text/plain; q=0.1; version=0.0.4",
        ),
        (f"{PROTOBUF};q=0.9,text/plain;version=0.0.4;q=0.2", *["text/plain; q=0.1; version=0.0.4"] * 2),
        ("*/*", *["text/plain; q=0.1; version=0.0.4"] * 2),
        ("*", *["text/plain; q=0.1; version=0.0.4"] * 2),
        ("application/*", "application/openmetrics-text; q=0.1; version=0.0.1", DEFAULT),
        ("text/*;q=0.4", *["text/*; q=0.1"] * 2),
        (
            "text/plain;q=0.1, application/openmetrics-text;q=0.9",
            "application/openmetrics-text; q=0.2,text/plain; q=0.1",
            "text/plain; q=0.1",
        ),
        (
            "text/plain;version=0.0.4;escaping=values",
            *["text/plain; escaping=values; q=0.1; version=0.0.4"] * 2,
        ),
        ("text/plain;q=0", DEFAULT, DEFAULT),
        (PROTOBUF, DEFAULT, DEFAULT),
    ],
)
def test_an_accept_header_is_narrowed_to_text_formats(accept: str, application: str, envoy: str) -> None:
    found = negotiated(accept)
    assert (found.application, found.envoy) == (application, envoy)


@pytest.mark.parametrize(
    ("accept", "complaint"),
    [
        (None, 'Failed to parse Accept header "": got="" expected=a media type'),
        ("", 'Failed to parse Accept header ""'),
        ("/", 'Failed to parse Accept header "/"'),
        ("text/plain;q=x", 'Failed to parse Accept header "text/plain;q=x"'),
        (PROTOBUF, f'No recognized encodings found in Accept header "{PROTOBUF}"'),
    ],
)
def test_without_anything_usable_text_is_asked_for_and_the_log_told(
    accept: str | None, complaint: str
) -> None:
    found = negotiated(accept)
    assert (found.application, found.envoy) == (DEFAULT, DEFAULT)
    assert found.complaint.startswith(complaint)


def test_more_than_nine_entries_keep_their_order() -> None:
    header = ",".join(f"text/plain;version={n}" for n in range(12))
    weights = [entry.split("q=")[1].split(";")[0] for entry in negotiated(header).envoy.split(",")]
    assert weights == [f"0.{n:02d}" for n in range(12, 0, -1)]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format.OPENMETRICS_1_0_0),
        ("application/openmetrics-text; version=1.0.0", Format.OPENMETRICS_1_0_0),
        ("application/openmetrics-text;version=0.0.1", Format.OPENMETRICS_0_0_1),
        ("application/openmetrics-text", Format.OPENMETRICS_0_0_1),
        ("application/openmetrics-text; version=7", Format.TEXT),
        ("text/plain; version=0.0.4", Format.TEXT),
        ("", Format.TEXT),
        (None, Format.TEXT),
    ],
)
def test_the_format_follows_the_content_type(content_type: str | None, expected: Format) -> None:
    assert format_of(content_type) is expected


def test_pages_that_differ_are_text_together() -> None:
    one, other = Format.OPENMETRICS_1_0_0, Format.OPENMETRICS_0_0_1
    assert common_format([one, one]) is one
    assert common_format([one, other]) is Format.TEXT
    assert common_format([Format.TEXT, one]) is Format.TEXT
    assert common_format([]) is Format.TEXT


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b"a 1\n# EOF\n", b"a 1\n"),
        (b"a 1\n# EOF", b"a 1\n"),
        (b"a 1\n# EOF\r\n \n", b"a 1\n"),
        (b"# EOF\n", b""),
        (b"a 1", b"a 1\n"),
        (b"a 1\n", b"a 1\n"),
        (b"a 1 # EOF", b"a 1 # EOF\n"),
        (b"", b""),
    ],
)
def test_an_end_mark_is_cut_and_a_line_feed_added(page: bytes, expected: bytes) -> None:
    assert without_eof(page) == expected
