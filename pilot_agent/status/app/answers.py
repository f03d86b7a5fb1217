"""What a probe's caller is told: a status, the beginning of the body, nothing else of the application's."""

from typing import Final

from pilot_agent.status.messages import TEXT, Answer

BODY_LIMIT_BYTES: Final = 10_240

FAILED: Final = Answer(status=500)
PASSED: Final = Answer(status=200)

_SIGNATURES: Final = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"<?xml", "text/xml; charset=utf-8"),
)
_HTML: Final = tuple(
    f"<{tag}".encode()
    for tag in [
        "!doctype html",
        "html",
        "head",
        "script",
        "iframe",
        "h1",
        "div",
        "font",
        "table",
        "a",
        "style",
        "title",
        "b",
        "body",
        "br",
        "p",
        "!--",
    ]
)
_BLANKS: Final = b"\t\n\x0c\r "
_TAG_ENDS: Final = (b" ", b">")
_BINARY: Final = frozenset((*range(0x09), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)))
_SNIFFED_BYTES: Final = 512
_WITHOUT_BODY: Final = (204, 304)


def passed_on(status: int, body: bytes) -> Answer:
    """Return the application's answer; a redirect that was not followed counts as success."""
    if 300 <= status < 400:
        status = 200
    if status in _WITHOUT_BODY:
        return Answer(status=status)  # over HTTP/2 nothing keeps an application from sending one
    return Answer(status=status, content_type=_sniffed(body) if body else "", body=body)


def _sniffed(body: bytes) -> str:
    """Return the content type by the body's beginning. Source: what Go's server does for such an answer."""
    head = body[:_SNIFFED_BYTES]
    text = head.lstrip(_BLANKS)
    lower = text.lower()
    if any(lower.startswith(tag) and lower[len(tag) : len(tag) + 1] in _TAG_ENDS for tag in _HTML):
        return "text/html; charset=utf-8"
    for signature, content_type in _SIGNATURES:
        if (text if signature == b"<?xml" else head).startswith(signature):
            return content_type
    return "application/octet-stream" if _BINARY.intersection(head) else TEXT
