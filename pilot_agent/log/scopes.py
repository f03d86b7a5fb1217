"""Scopes with levels, and what decides about a line: all of it one state, replaced as a whole."""

import os
import sys
from collections.abc import Mapping
from typing import Final

from pilot_agent.log.lines import Line, as_json, as_text
from pilot_agent.log.sink import Sink

LEVELS: Final = ("none", "fatal", "error", "warn", "info", "debug")
"""Least to most verbose."""

SCOPES: Final = (
    "ads",
    "ca",
    "cache",
    "citadelclient",
    "default",
    "dns",
    "gcecred",
    "grpc",
    "healthcheck",
    "klog",
    "mockcred",
    "monitoring",
    "probes",
    "sds",
    "security",
    "spiffe",
    "validation",
    "wasm",
    "xdsproxy",
)
"""The names that `all` stands for, sorted."""

_NONE, _FATAL, _ERROR, _WARN, _INFO, _DEBUG = range(len(LEVELS))
_BUILT_IN: Final = {"default": _INFO, "grpc": _NONE}
_FRAMES: Final = 3
"""How many frames of ours stand between the line that called `info` and the one that looks for it."""


class LogConfigurationError(ValueError):
    """A logging flag does not parse; the text is the reference's."""


class _State:
    """What all loggers of the process share."""

    def __init__(
        self,
        *,
        sink: Sink,
        as_json: bool = False,
        levels: Mapping[str, int] = _BUILT_IN,
        stack_levels: Mapping[str, int] | None = None,
        callers: frozenset[str] = frozenset(),
    ) -> None:
        self.sink, self.as_json, self.levels = sink, as_json, levels
        self.stack_levels, self.callers = stack_levels or {}, callers


_state = _State(sink=Sink())
os.register_at_fork(after_in_child=lambda: _state.sink.renew_mutex())  # noqa: PLW0108  # of the state as it is then


class Logger:
    """The lines of one scope. Labels come behind the message in the order of the call."""

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
        return _state.levels.get(self.scope, _INFO)

    def _log(self, level: int, message: str, labels: Mapping[str, object]) -> None:
        if level > self._level():
            return
        state = _state
        caller = _caller() if self.scope in state.callers else ""
        stack = _stack() if level <= state.stack_levels.get(self.scope, _NONE) else ""
        form = as_json if state.as_json else as_text
        state.sink.write(form(Line(LEVELS[level], self.scope, caller, message, labels, stack)))


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
    """Apply the logging flags, all or (after an error) none of them. To be called before any fork.

    Args:
        targets: "stdout", "stderr" or paths of files.
        as_json: One JSON object a line.
        output_level: Comma list of SCOPE:LEVEL, LEVEL alone for `default`, on top of what is built in.
        stacktrace_level: The same, for the level from which on a stack trace follows.
        callers: Comma list of scopes, or "all", whose lines name their source.

    Raises:
        LogConfigurationError: a level does not parse.
        OSError: a target file cannot be opened.
    """
    global _state  # noqa: PLW0603  # one log a process
    levels, stack_levels = _BUILT_IN | _parsed(output_level), _parsed(stacktrace_level)
    names = frozenset(callers.split(","))
    before = _state.sink
    _state = _State(
        sink=Sink(targets),
        as_json=as_json,
        levels=levels,
        stack_levels=stack_levels,
        callers=frozenset(SCOPES) if "all" in names else names & frozenset(SCOPES),
    )
    before.close()


def recent_lines() -> bytes:
    """Return the last lines (64 KiB) that any process of the agent has written."""
    return _state.sink.recent()


def sink_descriptors() -> tuple[int, ...]:
    """Return the descriptors that a child which closes all others must keep; lines go to the first."""
    return _state.sink.descriptors()


def _parsed(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in text.split(",") if text else ():
        parts = entry.split(":")
        if len(parts) > 2:
            raise LogConfigurationError(f"invalid output level format '{entry}'")
        scope, level = parts if len(parts) == 2 else ("default", parts[0])
        if level not in LEVELS:
            raise LogConfigurationError(f"invalid output level '{level}'")
        found |= dict.fromkeys(SCOPES if scope == "all" else (scope,), LEVELS.index(level))
    return found


def _caller() -> str:
    frame = sys._getframe(_FRAMES)  # noqa: SLF001
    folder, name = os.path.split(frame.f_code.co_filename)
    return f"{os.path.basename(folder)}/{name}:{frame.f_lineno}"  # noqa: PTH119


def _stack() -> str:
    import traceback  # noqa: PLC0415  # hardly anybody asks for it

    return "".join(traceback.format_stack(sys._getframe(_FRAMES))).rstrip("\n")  # noqa: SLF001
