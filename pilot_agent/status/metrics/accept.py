"""Which formats are asked of Envoy and of the application, by what the scraper accepts. Pure.

Source: the reference's negotiation. Protobuf is never asked for: three pages one after the other are a
page only in a text format. Where the reference keeps the header's order, the scraper's `q` decides here;
for scrapers that list the best first, as all do, that is the same.
"""

import re
from typing import Final

import msgspec

from pilot_agent.status.messages import printable

DEFAULT: Final = "text/plain;version=0.0.4"
"""What is asked for where nothing of the header is left."""

_OPENMETRICS: Final = "application/openmetrics-text"
_FOR_ENVOY: Final = ("text/plain", "text/*")
_FOR_APPLICATION: Final = (*_FOR_ENVOY, _OPENMETRICS)
_TEXT_WILDCARDS: Final = ("*", "*/*")
_MEDIA_TYPE: Final = re.compile(r"\*|[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")

Entry = tuple[str, tuple[tuple[str, str], ...]]  # media type and parameters, sorted by name


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The two `Accept` headers to send; `complaint` is for the log, empty when all was understood."""

    envoy: str
    application: str
    complaint: str = ""


def negotiated(accept: str | None) -> Accepted:
    """Return what to ask for, given the scraper's `Accept` (None: it sent none)."""
    try:
        entries = _entries(accept or "")
    except ValueError as error:
        complaint = printable(f'Failed to parse Accept header "{accept or ""}": {error}')
        return Accepted(envoy=DEFAULT, application=DEFAULT, complaint=complaint)
    application = _kept(entries, _FOR_APPLICATION)
    complaint = (
        "" if application else f'No recognized encodings found in Accept header "{printable(accept or "")}"'
    )
    return Accepted(
        envoy=_written(_kept(entries, _FOR_ENVOY)), application=_written(application), complaint=complaint
    )


def _entries(accept: str) -> list[Entry]:
    """Return the entries, the most wanted first.

    Raises:
        ValueError: one of them is no media type.
    """
    found: list[tuple[float, Entry]] = []
    for text in accept.split(","):
        media_type, *rest = (part.strip() for part in text.split(";"))
        media_type = media_type.lower()
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise ValueError(f'got="{media_type}" expected=a media type')
        parameters = {name.strip().lower(): value.strip() for name, _, value in map(_pair, rest) if name}
        quality = float(parameters.pop("q", "1"))
        if quality > 0:
            found.append((quality, (media_type, tuple(sorted(parameters.items())))))
    return [entry for _, entry in sorted(found, key=lambda each: -each[0])]


def _pair(text: str) -> tuple[str, str, str]:
    return text.partition("=")


def _kept(entries: list[Entry], allowed: tuple[str, ...]) -> list[Entry]:
    kept: list[Entry] = []
    for media_type, parameters in entries:
        if media_type in _TEXT_WILDCARDS:
            wildcard: Entry = ("text/plain", (("version", "0.0.4"),))
        elif media_type == "application/*" and _OPENMETRICS in allowed:
            wildcard = (_OPENMETRICS, (("version", "0.0.1"),))
        elif media_type in allowed:
            kept.append((media_type, parameters))
            continue
        else:
            continue
        if wildcard not in kept:
            kept.append(wildcard)
    return kept


def _written(entries: list[Entry]) -> str:
    if not entries:
        return DEFAULT
    width = len(str(len(entries)))
    written = []
    for left, (media_type, parameters) in zip(range(len(entries), 0, -1), entries, strict=True):
        weighted = sorted((*parameters, ("q", f"0.{left:0{width}d}")))
        written.append("; ".join((media_type, *(f"{name}={value}" for name, value in weighted))))
    return ",".join(written)
