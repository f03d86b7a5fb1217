"""Go's notation for durations, in which the reference reads and prints them."""

import re
from decimal import Decimal
from typing import Final

_UNIT_S: Final = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_PART: Final = re.compile(r"([0-9]*\.?[0-9]*)(ns|us|µs|μs|ms|s|m|h)")
_LIMIT_S: Final = Decimal(2**63) / Decimal(10**9)


def duration_s(text: str) -> float:
    """Return the seconds that a Go duration such as `1h30m`, `2.5s`, `-1s` or `0` means.

    Raises:
        ValueError: the text is no Go duration; the message is Go's own (`time.ParseDuration`).
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, at = Decimal(0), 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None or part[1] in ("", "."):
            raise ValueError(f'time: invalid duration "{text}"')
        total += Decimal(part[1]) * _UNIT_S[part[2]]
        at = part.end()
    if not rest or total >= _LIMIT_S:
        raise ValueError(f'time: invalid duration "{text}"')
    return float(sign * total)


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
