"""What a command prints, written without Python's buffers: whole, at once, and no second error at exit."""

from __future__ import annotations

import os

from pilot_agent.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_STDOUT, _STDERR = 1, 2
SIGPIPE_STATUS: Final = 141
"""The status of a program that SIGPIPE ended: what a shell sees of the reference in `… | head`."""


class OutputClosedError(Exception):
    """Nobody reads stdout any more."""


def print_out(text: str | bytes) -> None:
    """Write `text` to stdout as it is.

    Raises:
        OutputClosedError: the reader has gone.
        CliError: stdout takes nothing (closed, disk full).
    """
    try:
        _write(_STDOUT, text)
    except BrokenPipeError as error:
        raise OutputClosedError from error
    except OSError as error:
        raise CliError(f"write stdout: {error.strerror}") from error


def print_error(text: str) -> None:
    """Write `text` to stderr; that it cannot be written helps nobody."""
    try:
        _write(_STDERR, text)
    except OSError:
        return


def _write(descriptor: int, text: str | bytes) -> None:
    data = memoryview(text.encode(errors="surrogateescape") if isinstance(text, str) else text)
    while data:
        data = data[os.write(descriptor, data) :]
