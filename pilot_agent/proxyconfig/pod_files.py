"""The pod's labels and annotations, from the two files of the Kubernetes downward API.

A file has one `key="value"` a line, the value quoted as Go quotes a string.
"""

import re
from pathlib import Path
from typing import Final

from pilot_agent.log import get_logger

_log = get_logger()

LABELS: Final = "etc/istio/pod/labels"
ANNOTATIONS: Final = "etc/istio/pod/annotations"

_ESCAPE: Final = re.compile(
    r'\\([abfnrtv\\"])|\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\([0-7]{3})|(["\\\n])'
)
_SIMPLE: Final = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34}


def read_pod_file(path: Path, what: str) -> dict[str, str] | None:
    """Return what the file holds, or None when it is absent (debug line) or broken (warning).

    `what` stands in the log line: "labels" or "annotations".
    """
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError as error:
        _log.debug(f"failed to read pod {what}: {error}")
    except (OSError, ValueError) as error:
        _log.warn(f"failed to read pod {what}: {error}")
    return None


def parse(text: str) -> dict[str, str]:
    """Return the pairs of a downward-API file; lines without `=` are skipped.

    Raises:
        ValueError: one value is no Go string literal; then nothing of the file counts.
    """
    pairs: dict[str, str] = {}
    for line in text.split("\n"):
        key, separator, literal = line.partition("=")
        if separator:
            pairs[key] = _unquoted(literal.removesuffix("\r"), line)
    return pairs


def _unquoted(literal: str, line: str) -> str:
    if len(literal) >= 2 and literal[0] == literal[-1] == "`" and "`" not in literal[1:-1]:
        return literal[1:-1].replace("\r", "")
    if len(literal) < 2 or literal[0] != '"' or literal[-1] != '"':
        raise ValueError(f"failed to unquote the value of {line!r}: invalid syntax")
    try:
        data = _ESCAPE.sub(_character, literal[1:-1])
    except ValueError:
        raise ValueError(f"failed to unquote the value of {line!r}: invalid syntax") from None
    return data.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _character(match: re.Match[str]) -> str:
    simple, byte, short, long, octal, stray = match.groups()
    if stray is not None:
        raise ValueError(stray)
    if simple is not None:
        return chr(_SIMPLE[simple])
    if byte is not None or octal is not None:
        number = int(byte, 16) if byte is not None else int(octal, 8)
        if number > 255:
            raise ValueError(octal)
        return bytes((number,)).decode("utf-8", "surrogateescape")
    number = int(short or long, 16)
    if number > 0x10FFFF or 0xD800 <= number < 0xE000:
        raise ValueError(short or long)
    return chr(number)
