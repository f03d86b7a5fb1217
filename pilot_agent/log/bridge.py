"""Brings lines of libraries, which use the standard library's `logging`, into our log.

Not imported by this package itself: `logging` costs time and memory, and only the agent proper, whose
libraries load it anyway, has use for it.
"""

import logging
import traceback
from collections.abc import Callable
from typing import Final

from pilot_agent.log.scopes import Logger, get_logger

_SOURCES: Final = (
    # library   our scope     from level on
    ("",        "default",    logging.WARNING),
    ("pykka",   "default",    logging.ERROR),
    ("grpc",    "grpc",       logging.DEBUG),
)  # fmt: skip
"""The empty name is every other library's."""


def bridge_library_logs() -> None:
    """Let what libraries log appear in our log; to be called after `configure`, harmless if repeated."""
    for name, scope, level in _SOURCES:
        library = logging.getLogger(name)
        library.handlers = [_Bridge(get_logger(scope))]
        library.propagate = False
        library.setLevel(level if get_logger(scope).enabled("fatal") else logging.CRITICAL + 1)


class _Bridge(logging.Handler):
    """Writes a record as one line of our log, its traceback behind it."""

    def __init__(self, log: Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._method(record.levelno)(_text(record))
        except Exception:  # noqa: BLE001  # a library's wrong format string must not end its work
            self.handleError(record)

    def _method(self, level: int) -> Callable[[str], None]:
        if level >= logging.ERROR:
            return self._log.error
        if level >= logging.WARNING:
            return self._log.warn
        return self._log.info if level >= logging.INFO else self._log.debug


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
    return text
