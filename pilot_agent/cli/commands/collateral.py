"""`collateral`: would write the documentation files of the reference's website; hidden, never built in."""

from pilot_agent.cli.command import Command, Invocation
from pilot_agent.cli.errors import CliError


def _run(_invocation: Invocation) -> int:
    raise CliError("this build is not compiled with collateral support")


COMMAND = Command(use="collateral", short="Write documentation files", run=_run, hidden=True)
