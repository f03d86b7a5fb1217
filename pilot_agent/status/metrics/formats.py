"""Content types of a metrics page, and the `# EOF` that ends an OpenMetrics one. Pure."""

import enum
from collections.abc import Sequence
from typing import Final

_EOF: Final = b"# EOF"
_BLANKS: Final = b" \t\r\n"


class Format(enum.Enum):
    """The value is what the merged page says of itself."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS_0_0_1 = "application/openmetrics-text; version=0.0.1; charset=utf-8"
    OPENMETRICS_1_0_0 = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def format_of(content_type: str | None) -> Format:
    """Return the format that an application's `Content-Type` names; what is not known counts as text."""
    media_type, *rest = (part.strip().lower() for part in (content_type or "").split(";"))
    if media_type != "application/openmetrics-text":
        return Format.TEXT
    parameters = dict(part.partition("=")[::2] for part in rest)
    match parameters.get("version", "").strip('"'):
        case "1.0.0":
            return Format.OPENMETRICS_1_0_0
        case "0.0.1" | "":
            return Format.OPENMETRICS_0_0_1
        case _:
            return Format.TEXT


def common_format(formats: Sequence[Format]) -> Format:
    """Return the format of several pages in one: theirs where they agree, else text."""
    return formats[0] if formats and all(each is formats[0] for each in formats) else Format.TEXT


def without_eof(page: bytes) -> bytes:
    """Return a page that another may follow: no `# EOF` at its end, a line feed there instead."""
    body = page.rstrip(_BLANKS)
    if body == _EOF or body.endswith(b"\n" + _EOF):
        page = body[: -len(_EOF)]
    return page if not page or page.endswith(b"\n") else page + b"\n"
