"""From the words of the command line to an exit status."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself loads `enum`, a tenth of a hook's start
import os

from pilot_agent.cli.command import PROGRAM, Command, Invocation
from pilot_agent.cli.errors import CliError, UsageError
from pilot_agent.cli.flags import HELP_NAME
from pilot_agent.cli.global_flags import GLOBAL_FLAGS
from pilot_agent.cli.output import SIGPIPE_STATUS, OutputClosedError, print_error, print_out
from pilot_agent.cli.parser import Parser
from pilot_agent.cli.registry import root_command
from pilot_agent.cli.resolve import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_ERROR_STATUS: Final = 255
_REPAIR: Final = "install it with pip (a checkout: python3 -m venv .venv && .venv/bin/pip install -e .)"
_CRASH_STATUS: Final = 2  # what a Go program that panics ends with


def run_program(words: Sequence[str]) -> int:
    """Run the command that `words` name and return its exit status; errors are told to the user."""
    _fill_standard_descriptors()
    _default_interrupt()
    try:
        return _dispatch(words)
    except CliError as error:
        _report(error)
        return _ERROR_STATUS
    except OutputClosedError:
        return SIGPIPE_STATUS
    except ModuleNotFoundError as error:
        _report(CliError(f"this installation is not whole: {error}; {_REPAIR}"))
        return _ERROR_STATUS
    except Exception:  # noqa: BLE001  # the process ends here
        return _report_crash()


def _dispatch(words: Sequence[str]) -> int:
    command, rest = resolve(root_command(), words)
    parser = Parser((*command.own_flags, *GLOBAL_FLAGS), drop_unknown=command.drops_unknown_flags)
    parser.parse(["--", *rest] if command.takes_raw_words else rest)
    if parser.values.boolean(HELP_NAME) or command.run is None:
        return _print_help(command)
    if command.check_arguments is not None:
        command.check_arguments(command.path, parser.arguments)
    return command.run(Invocation(parser.arguments, parser.values))


def _print_help(command: Command) -> int:
    from pilot_agent.cli.help import help_text  # noqa: PLC0415  # rarely asked for

    print_out(help_text(command))
    return 0


def _report(error: CliError) -> None:
    """Tell the error twice, as the reference does: on stderr, and as a line on the log's target."""
    from pilot_agent.log import get_logger  # noqa: PLC0415  # a success needs no log

    hint = f"Run '{PROGRAM} --help' for usage.\n" if isinstance(error, UsageError) else ""
    print_error(f"Error: {error}\n{hint}")
    get_logger().error(str(error))


def _report_crash() -> int:
    import traceback  # noqa: PLC0415  # only here

    print_error(f"panic: an error that should not be possible ended {PROGRAM}\n{traceback.format_exc()}")
    return _CRASH_STATUS


def _fill_standard_descriptors() -> None:
    """Open /dev/null for each of the first three descriptors that is closed.

    Otherwise the next file to be opened becomes stdout, and the log is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free one: this one


def _default_interrupt() -> None:
    """Let Ctrl-C end the process as it ends others, without Python's KeyboardInterrupt."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
