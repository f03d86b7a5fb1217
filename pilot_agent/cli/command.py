"""A command: what it is called, which flags it has, and the function that does its work."""

from __future__ import annotations

from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import HELP_NAME, Flag, Values
from pilot_agent.gotext import quote
from pilot_agent.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

PROGRAM: Final = "pilot-agent"


class Invocation(Record):
    """What the user typed for a command, parsed."""

    arguments: list[str]
    values: Values


class Command:
    """One word of the command line.

    `run` does the work, returns the exit status and raises CliError for what the user is to read;
    heavy imports belong into it. A command without `run` prints its help. `use` is the line of the
    help text, its first word is the name. `argument_choices` are what shell completion offers. With
    `takes_raw_words` nothing is parsed: all words are arguments.
    """

    def __init__(
        self,
        *,
        use: str,
        short: str,
        run: Callable[[Invocation], int] | None = None,
        long: str = "",
        flags: Sequence[Flag] = (),
        check_arguments: Callable[[str, Sequence[str]], None] | None = None,
        drops_unknown_flags: bool = False,
        hidden: bool = False,
        argument_choices: Sequence[str] = (),
        takes_raw_words: bool = False,
        children: Sequence[Command] = (),
        parent: str = PROGRAM,
    ) -> None:
        self.use, self.short, self.long, self.run = use, short, long, run
        self.name = use.split(" ", 1)[0]
        self.path = f"{parent} {self.name}".strip()
        self.own_flags = (*flags, Flag(HELP_NAME, "bool", False, f"help for {self.name}", "h"))
        self.check_arguments = check_arguments
        self.drops_unknown_flags, self.hidden = drops_unknown_flags, hidden
        self.argument_choices, self.takes_raw_words = argument_choices, takes_raw_words
        self.children = {child.name: child for child in children}


def at_least(count: int) -> Callable[[str, Sequence[str]], None]:
    """Return a check that `count` arguments are there."""

    def check(_path: str, arguments: Sequence[str]) -> None:
        if len(arguments) < count:
            raise CliError(f"requires at least {count} arg(s), only received {len(arguments)}")

    return check


def no_arguments(path: str, arguments: Sequence[str]) -> None:
    """Refuse every argument.

    Raises:
        CliError: there is one; a word too many reads as an unknown command.
    """
    if arguments:
        raise CliError(f'unknown command {quote(arguments[0])} for "{path}"')
