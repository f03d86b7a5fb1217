"""Protobuf JSON read by the schema table: any accepted spelling in, the canonical one out.

Accepted, as by the reference: camelCase or proto names, enums by name or number, numbers in quotes,
durations in Go's notation; unknown members and nulls are skipped.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pilot_agent.environment import duration_s
from pilot_agent.proxyconfig.errors import ConfigError
from pilot_agent.proxyconfig.hostport import decimal
from pilot_agent.proxyconfig.schema import ENUMS, MESSAGES, ONE_OFS
from pilot_agent.proxyconfig.text import valid_text

Document = dict[str, Any]  # Any: the values of a JSON object

_CAPITAL: Final = re.compile(r"[A-Z]")
_RANGES: Final = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
_EXACT: Final = 2.0**53
_WRAPPERS: Final = {"BoolValue": "bool", "Int32Value": "int32", "Int64Value": "int64"}
_JSON_KINDS: Final = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def canonical(message: str, raw: object, *, keep_zero: bool = False) -> Document:
    """Return the canonical JSON of one message.

    Args:
        message: A name in the schema table.
        raw: Parsed JSON or YAML; None is the empty message.
        keep_zero: Keep zero values of fields without presence (a layer that sets a field to zero
            replaces the earlier layer's value). Only for this message, never for the ones in it.

    Raises:
        ConfigError: a value does not fit its field.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(_mismatch(raw, message))
    fields, found = _field_names(message), Document()
    for name, value in raw.items():
        field = fields.get(name)
        if field is None or value is None:
            continue
        found[field] = _field(MESSAGES[message][field], value, field)
    for group in ONE_OFS.get(message, ()):
        if len(given := [field for field in group if field in found]) > 1:
            raise ConfigError(
                f"error parsing {message}, one-of members {given[0]} and {given[1]} are both set"
            )
    return found if keep_zero else without_zeros(message, found)


def without_zeros(message: str, document: Mapping[str, Any]) -> Document:
    """Return the document without the zero values that canonical JSON leaves out."""
    return {name: value for name, value in document.items() if not _is_left_out(message, name, value)}


def _field_names(message: str) -> dict[str, str]:
    names = MESSAGES[message]
    return {name: name for name in names} | {_proto_name(name): name for name in names}


def _proto_name(name: str) -> str:
    return _CAPITAL.sub(lambda letter: f"_{letter[0].lower()}", name)


def _field(kind: str, value: object, field: str) -> object:
    shape, _, inner = kind.rpartition(" ")
    if shape == "repeated":
        if not isinstance(value, list):
            raise ConfigError(_mismatch(value, "array", field))
        return [_single(inner, item, field) for item in value]
    if shape == "map":
        if not isinstance(value, dict):
            raise ConfigError(_mismatch(value, "map", field))
        return {valid_text(str(key)): _single(inner, item, field) for key, item in value.items()}
    return _single(kind, value, field)


def _single(kind: str, value: object, field: str) -> object:
    if kind in MESSAGES:
        return canonical(kind, value)
    if kind in ENUMS:
        return _enum(kind, value, field)
    if kind in _WRAPPERS:
        number = _single(_WRAPPERS[kind], value, field)
        return str(number) if kind == "Int64Value" else number
    return _SCALARS[kind](kind, value, field)


def _text(kind: str, value: object, field: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(_mismatch(value, kind, field))
    return valid_text(value)


def _bool(kind: str, value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(_mismatch(value, kind, field))
    return value


def _integer(kind: str, value: object, field: str) -> int:
    try:
        number = decimal(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ConfigError(_mismatch(value, kind, field))
    low, high = _RANGES[kind]
    if not low <= number <= high:
        raise ConfigError(f"json: cannot unmarshal number {number} into field {field} of type {kind}")
    return number


def _double(kind: str, value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(_mismatch(value, kind, field))
    try:
        number = float(value)
    except (OverflowError, ValueError):
        raise ConfigError(_mismatch(value, kind, field)) from None
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


def _duration(kind: str, value: object, field: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(_mismatch(value, kind, field))
    try:
        nanos = round(duration_s(value) * 1e9)
    except ValueError as error:
        raise ConfigError(f"bad Duration in field {field}: {error}") from None
    return duration_text(nanos)


def duration_text(nanos: int) -> str:
    """Return the canonical JSON of a duration: `45s`, `0.250s`; 0, 3, 6 or 9 decimals."""
    whole, part = divmod(abs(nanos), 10**9)
    digits = f"{part:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{'-' if nanos < 0 else ''}{whole}{'.' if digits else ''}{digits}s"


def _enum(kind: str, value: object, field: str) -> str | int:
    values = ENUMS[kind]
    if isinstance(value, str):
        if value not in values:
            raise ConfigError(f'unknown value "{value}" for enum {kind} in field {field}')
        return value
    number = _integer("int32", value, field)
    return next((name for name, known in values.items() if known == number), number)


_SCALARS: Final[Mapping[str, Callable[[str, object, str], object]]] = {
    "string": _text,
    "bool": _bool,
    "int32": _integer,
    "uint32": _integer,
    "int64": _integer,
    "double": _double,
    "Duration": _duration,
}


def _is_left_out(message: str, name: str, value: object) -> bool:
    kind = MESSAGES[message][name]
    if kind in _WRAPPERS or kind == "Duration" or kind in MESSAGES:
        return False
    if any(name in group for group in ONE_OFS.get(message, ())):
        return False
    if kind in ENUMS:
        return ENUMS[kind].get(value) == 0 if isinstance(value, str) else False
    return not value


def _mismatch(value: object, kind: str, field: str = "") -> str:
    got = _JSON_KINDS.get(type(value), "null")
    return f"json: cannot unmarshal {got} into {f'field {field} of type ' if field else ''}{kind}"
