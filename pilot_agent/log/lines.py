"""The two forms of a line: text, its fields separated by tabs, and JSON."""

import time
from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple


class Line(NamedTuple):
    """What a line tells; `caller` and `stack` are empty unless they were asked for."""

    level: str
    scope: str
    caller: str
    message: str
    labels: Mapping[str, object]
    stack: str


def as_text(line: Line) -> str:
    """Return `TIME LEVEL [SCOPE] [CALLER] MESSAGE [LABELS]`, and the stack on lines of its own."""
    fields = [timestamp(), line.level]
    fields += [field for field in (_scope_name(line.scope), line.caller) if field]
    fields.append(line.message)
    if line.labels:
        fields.append(" ".join(f"{key}={_text_value(value)}" for key, value in line.labels.items()))
    return "\t".join(fields) + (f"\n{line.stack}" if line.stack else "")


def as_json(line: Line) -> str:
    """Return one object: level, time, scope, caller, msg, the labels, stack; empty ones are left out."""
    import json  # noqa: PLC0415  # text is what most runs write

    members: dict[str, object] = {"level": line.level, "time": timestamp()}
    members |= {"scope": _scope_name(line.scope), "caller": line.caller}
    members = {name: value for name, value in members.items() if value}
    members["msg"] = line.message
    members |= {key: _json_value(value) for key, value in line.labels.items()}
    members |= {"stack": line.stack} if line.stack else {}
    return json.dumps(members, ensure_ascii=False)


def timestamp() -> str:
    """Return the time it is, UTC, with six decimals."""
    seconds, nanos = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos // 1000:06d}Z"


def _scope_name(scope: str) -> str:
    return "" if scope == "default" else scope


def _text_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "<nil>"
        case list() | tuple():
            return f"[{' '.join(map(_text_value, value))}]"
        case _:
            return str(value)


def _json_value(value: object) -> object:
    match value:
        case float() if not isfinite(value):
            return str(value)
        case str() | int() | float() | None:
            return value
        case list() | tuple():
            return [_json_value(item) for item in value]
        case _:
            return str(value)
