"""The command line: `main` is what the installed program `pilot-agent` calls."""

import sys

TYPE_CHECKING = False  # what hooks load does without `typing`: pilot_agent/record.py
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(words: "Sequence[str] | None" = None) -> int:
    """Run the command that `words` (the process's own arguments when None) name.

    Returns the exit status: 0, 255 for an error that was told to the user, or what the command says.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  # who unpacks a wheel by hand is told in a line
        sys.stderr.write("Error: pilot-agent needs Python 3.11 or newer\n")
        return 255
    from pilot_agent.cli.program import run_program  # noqa: PLC0415  # older Pythons cannot read it

    return run_program(sys.argv[1:] if words is None else words)
