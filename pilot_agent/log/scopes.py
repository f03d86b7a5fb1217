"""Scopes with levels, and the two forms of a line: text and JSON."""

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Final

from pilot_agent.log.sink import Sink

LEVELS: Final = ("none", "fatal", "error", "warn", "info", "debug")
"""Least to most verbose."""

SCOPES: Final = (
    "ads ca cache citadelclient default dns gcecred grpc healthcheck klog mockcred monitoring probes "
    "sds security spiffe validation wasm xdsproxy"
).split()

_ERROR, _WARN, _INFO, _DEBUG = (LEVELS.index(name) for name in ("error", "warn", "info", "debug"))
_FATAL: Final = LEVELS.index("fatal")


class LogConfigurationError(ValueError):
    """A logging flag does not parse; the text is the reference's."""


class _State:
    """What all loggers of the process share; replaced as a whole by `configure`."""

    def __init__(self) -> None:
        self.sink = Sink()
        self.as_json = False
        self.levels: Mapping[str, int] = {"default": _INFO, "grpc": 0}
        self.stack_levels: Mapping[str, int] = {}
        self.callers: frozenset[str] = frozenset()


_state = _State()


class Logger:
    """The lines of one scope."""

    __slots__ = ("scope",)

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def enabled(self, level: str) -> bool:
        """Return whether a line of this level would be written."""
        return LEVELS.index(level) <= self._level()

    def debug(self, message: str, **labels: object) -> None:
        self._log(_DEBUG, message, labels)

    def info(self, message: str, **labels: object) -> None:
        self._log(_INFO, message, labels)

    def warn(self, message: str, **labels: object) -> None:
        self._log(_WARN, message, labels)

    def error(self, message: str, **labels: object) -> None:
        self._log(_ERROR, message, labels)

    def fatal(self, message: str, **labels: object) -> None:
        """Write a fatal line; ending the process is the caller's part (exit status 1)."""
        self._log(_FATAL, message, labels)

    def _level(self) -> int:
        levels = _state.levels
        return levels.get(self.scope, _INFO)

    def _log(self, level: int, message: str, labels: Mapping[str, object]) -> None:
        if level > self._level():
            return
        state = _state
        caller = _caller() if self.scope in state.callers else ""
        stack = _stack() if level <= state.stack_levels.get(self.scope, 0) else ""
        form = _json_line if state.as_json else _text_line
        state.sink.write(form(LEVELS[level], self.scope, caller, message, labels, stack))


_loggers: dict[str, Logger] = {}


def get_logger(scope: str = "default") -> Logger:
    """Return the logger of a scope; unknown scopes behave like `default` at info."""
    return _loggers.setdefault(scope, Logger(scope))


def configure(
    *,
    targets: tuple[str, ...] = ("stdout",),
    as_json: bool = False,
    output_level: str = "",
    stacktrace_level: str = "default:none",
    callers: str = "",
) -> None:
    """Apply the logging flags (spec: cli, global flags).

    Raises:
        LogConfigurationError: a level does not parse.
        OSError: a target file cannot be opened.
    """
    levels = {"default": _INFO, "grpc": 0} | _parsed(output_level)
    stack_levels = _parsed(stacktrace_level)
    names = {name for name in callers.split(",") if name}
    _state.callers = frozenset(SCOPES) if "all" in names else frozenset(names)
    if targets != ("stdout",):
        _state.sink = Sink(targets)
    _state.as_json, _state.levels, _state.stack_levels = as_json, levels, stack_levels


def sink_descriptors() -> tuple[int, ...]:
    """Return the descriptors that lines are written to, for a child that closes all others."""
    return _state.sink.descriptors()


def _parsed(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in filter(None, text.split(",")):
        parts = entry.split(":")
        if len(parts) > 2:
            raise LogConfigurationError(f"invalid output level format '{entry}'")
        scope, level = parts if len(parts) == 2 else ("default", parts[0])
        if level not in LEVELS:
            raise LogConfigurationError(f"invalid output level '{level}'")
        found |= dict.fromkeys(SCOPES, LEVELS.index(level)) if scope == "all" else {scope: LEVELS.index(level)}
    return found


def _timestamp() -> str:
    seconds, nanos = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos // 1000:06d}Z"


def _text_line(
    level: str, scope: str, caller: str, message: str, labels: Mapping[str, object], stack: str
) -> str:
    fields = [_timestamp(), level, "" if scope == "default" else scope, caller, message]
    fields.append(" ".join(f"{key}={_text_value(value)}" for key, value in labels.items()))
    line = "\t".join(field for at, field in enumerate(fields) if field or at == 4)
    return f"{line}\n{stack}" if stack else line


def _text_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(str, value))}]"
    return str(value)


def _json_line(
    level: str, scope: str, caller: str, message: str, labels: Mapping[str, object], stack: str
) -> str:
    line: dict[str, object] = {"level": level, "time": _timestamp()}
    line |= {"scope": scope} if scope != "default" else {}
    line |= {"caller": caller} if caller else {}
    line["msg"] = message
    line |= {
        key: value if isinstance(value, str | int | float | bool | list | tuple) else str(value)
        for key, value in labels.items()
    }
    line |= {"stack": stack} if stack else {}
    return json.dumps(line, ensure_ascii=False)


def _caller() -> str:
    frame = sys._getframe(3)  # noqa: SLF001  # the line that called info(), warn(), …
    folder, name = os.path.split(frame.f_code.co_filename)
    return f"{os.path.basename(folder)}/{name}:{frame.f_lineno}"  # noqa: PTH119


def _stack() -> str:
    return "".join(traceback.format_stack()[:-3]).rstrip("\n")
