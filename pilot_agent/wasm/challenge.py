"""Reads a registry's `WWW-Authenticate`: how it wants to be convinced."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

_SCHEME: Final = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)(?!\s*=)")
_PARAMETER: Final = re.compile(r'\s*,?\s*([A-Za-z][\w-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))')


class Challenge(NamedTuple):
    """One of the ways that are offered."""

    scheme: str  # in lower case
    parameters: dict[str, str]  # names in lower case


def read_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges in order; what is no challenge is skipped."""
    found: list[Challenge] = []
    for header in headers:
        at = 0
        while (scheme := _SCHEME.match(header, at)) is not None:
            at = scheme.end()
            parameters: dict[str, str] = {}
            while (pair := _PARAMETER.match(header, at)) is not None:
                value = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
                parameters.setdefault(pair[1].lower(), value)
                at = pair.end()
            found.append(Challenge(scheme[1].lower(), parameters))
    return found
