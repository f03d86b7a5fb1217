"""What may stand at the end of a command line that is being typed."""

from collections.abc import Iterator, Sequence

from pilot_agent.cli.command import Command
from pilot_agent.cli.flags import Flag
from pilot_agent.cli.global_flags import GLOBAL_FLAGS
from pilot_agent.cli.registry import all_commands, root_command
from pilot_agent.cli.resolve import descend, plain_words

Candidate = tuple[str, str]
"""A word and its description."""


def candidates(words: Sequence[str]) -> list[Candidate]:
    """Return the candidates for the last of `words`, which may be empty; none: the shell offers files."""
    *before, prefix = words or ("",)
    command, rest = descend(root_command(), [*before, ""])
    found = _all(command, rest[:-1], prefix)
    return [(word, description) for word, description in found if word.startswith(prefix)]


def _all(command: Command, before: Sequence[str], prefix: str) -> Iterator[Candidate]:
    flags = (*command.own_flags, *GLOBAL_FLAGS)
    name, equals, _ = prefix.partition("=")
    if prefix.startswith("-") and equals:
        yield from ((f"{name}={value}", "") for value in _choices(flags, name))
    elif prefix.startswith("-"):
        yield from ((f"--{flag.name}", flag.usage) for flag in flags)
    elif before and _awaits_value(flags, before[-1]):
        yield from ((value, "") for value in _choices(flags, before[-1]))
    elif not plain_words(command, [*before, "", ""]):
        yield from _first_arguments(command)


def _first_arguments(command: Command) -> Iterator[Candidate]:
    lists_commands = command.path in (root_command().path, f"{root_command().path} help")
    children = all_commands() if lists_commands else list(command.children.values())
    yield from ((child.name, child.short) for child in children if not child.hidden)
    yield from ((choice, "") for choice in command.argument_choices)


def _awaits_value(flags: Sequence[Flag], word: str) -> bool:
    return "=" not in word and any(flag.takes_word for flag in flags if word in _spellings(flag))


def _choices(flags: Sequence[Flag], word: str) -> tuple[str, ...]:
    return next((flag.choices for flag in flags if word in _spellings(flag)), ())


def _spellings(flag: Flag) -> tuple[str, ...]:
    return (f"--{flag.name}", f"-{flag.shorthand}") if flag.shorthand else (f"--{flag.name}",)
