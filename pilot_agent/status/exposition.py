"""Prometheus' text format. Pure.

Source: the reference's metrics page: every name has the prefix `istio_agent_`, families are sorted by
name, a family appears only once it has a value, numbers are written as Go does.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from pilot_agent.status.catalogue import FAMILIES, Family

PREFIX: Final = "istio_agent_"
_HISTOGRAM_PARTS: Final = ("_bucket", "_sum", "_count")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One value. `series` is `name` or `name{label="value",…}`, without the prefix."""

    series: str
    value: float


def series(name: str, **labels: str) -> str:
    """Return the key of a time series, labels sorted and their values escaped."""
    if not labels:
        return name
    inner = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}"


def render(samples: Iterable[Sample], families: Mapping[str, Family] = FAMILIES) -> bytes:
    """Return the page. Samples of one series are added up: several processes may count the same thing.

    A family that is not in `families` is written as untyped, without a help line.
    """
    grouped: dict[str, dict[str, float]] = {}
    for sample in samples:
        group = grouped.setdefault(_family_name(sample.series, families), {})
        group[sample.series] = group.get(sample.series, 0.0) + sample.value
    lines: list[str] = []
    for name in sorted(grouped):
        family = families.get(name)
        if family is not None:
            lines.append(f"# HELP {PREFIX}{name} {family.help}")
        lines.append(f"# TYPE {PREFIX}{name} {family.kind if family is not None else 'untyped'}")
        lines += (f"{PREFIX}{key} {go_float(value)}" for key, value in _ordered(name, grouped[name]))
    return "".join(f"{line}\n" for line in lines).encode()


def go_float(value: float) -> str:
    """Return `value` in Go's shortest form, with an exponent below 1e-4 and from 1e6 up.

    Source: strconv.FormatFloat with 'g' and precision -1.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(float(value))).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).rstrip("0")
    power = len(digits) + exponent - 1
    minus = "-" if sign else ""
    if not -4 <= power < 6:
        fraction = f".{text[1:]}" if len(text) > 1 else ""
        return f"{minus}{text[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if power < 0:
        return f"{minus}0.{'0' * (-power - 1)}{text}"
    whole = text[: power + 1].ljust(power + 1, "0")
    return f"{minus}{whole}.{text[power + 1 :]}".rstrip(".")


def _family_name(key: str, families: Mapping[str, Family]) -> str:
    name = key.partition("{")[0]
    if name not in families:
        for part in _HISTOGRAM_PARTS:
            base = name.removesuffix(part)
            if base != name and base in families and families[base].kind == "histogram":
                return base
    return name


def _ordered(name: str, group: Mapping[str, float]) -> Iterable[tuple[str, float]]:
    """Sort by labels; a histogram's buckets stay in the order they were counted in, sum and count last."""

    def place(item: tuple[int, str]) -> tuple[int, int, str]:
        at, key = item
        part = key.partition("{")[0].removeprefix(name)
        return (_HISTOGRAM_PARTS.index(part) if part else -1), at if part == "_bucket" else 0, key

    return [(key, group[key]) for _, key in sorted(enumerate(group), key=place)]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
