"""Go's notation for durations, in which the reference reads and prints them."""

import re
from typing import Final

_UNIT_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # the micro sign
    "μs": 10**3,  # the Greek letter
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_LIMIT_NS: Final = 2**63
_DIGITS: Final = 30  # more cannot matter in 64 bits, and Python refuses to read thousands


def duration_s(text: str) -> float:
    """Return the seconds that a Go duration such as `1h30m`, `2.5s`, `-1s` or `0` means.

    Raises:
        ValueError: the text is no Go duration; the message is Go's own (`time.ParseDuration`).
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total_ns = at = 0
    while at < len(rest):
        part = _PART.match(rest, at)
        assert part is not None, "the pattern matches nothing, too"
        total_ns += _part_ns(text, *part.groups(""))
        at = part.end()
    if not rest or total_ns - (sign < 0) >= _LIMIT_NS:
        raise ValueError(f"time: invalid duration {_quoted(text)}")
    return sign * total_ns / 10**9


def _part_ns(text: str, whole: str, fraction: str, unit: str) -> int:
    if not whole and not fraction:
        raise ValueError(f"time: invalid duration {_quoted(text)}")
    if not unit:
        raise ValueError(f"time: missing unit in duration {_quoted(text)}")
    if unit not in _UNIT_NS:
        raise ValueError(f"time: unknown unit {_quoted(unit)} in duration {_quoted(text)}")
    size_ns = _UNIT_NS[unit]
    whole, fraction = whole.lstrip("0")[:_DIGITS], fraction[:_DIGITS]
    scale: int = 10 ** len(fraction)
    return int(whole or 0) * size_ns + int(fraction or 0) * size_ns // scale


def _quoted(text: str) -> str:
    """Return `text` as Go's `time` package quotes it: what is not ASCII byte by byte."""
    data = text.encode(errors="surrogateescape")
    return '"' + "".join(_quoted_byte(byte) for byte in data) + '"'


def _quoted_byte(byte: int) -> str:
    if not 0x20 <= byte < 0x7F:
        return f"\\x{byte:02x}"
    return "\\" + chr(byte) if byte in b'"\\' else chr(byte)


def go_duration(seconds: float) -> str:
    """Return `seconds` as Go prints a duration: `1m30s`, `94.994399ms`, `0s`."""
    nanos = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and nanos else ""
    if nanos == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanos < size * 1000:
            return f"{sign}{_trimmed(nanos, size)}{unit}"
    minutes, rest = divmod(nanos, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{text}{_trimmed(rest, 10**9)}s"


def _trimmed(nanos: int, size: int) -> str:
    whole, part = divmod(nanos, size)
    digits = f"{part:0{len(str(size)) - 1}d}".rstrip("0") if size > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)
