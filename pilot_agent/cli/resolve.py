"""Finds out which command the words mean, before any flag is parsed (cobra's `Find`).

Global flags may stand before the command's name, so the search must know which flags take the
following word. An unknown flag takes it too: `pilot-agent --x proxy router` asks for `router`.
"""

from __future__ import annotations

from pilot_agent.cli.errors import UsageError
from pilot_agent.cli.flags import HELP_NAME, Flag
from pilot_agent.cli.global_flags import GLOBAL_FLAGS
from pilot_agent.cli.registry import all_commands, find_command
from pilot_agent.gotext import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pilot_agent.cli.command import Command

_SUGGESTION_DISTANCE = 2


def resolve(root: Command, words: Sequence[str]) -> tuple[Command, list[str]]:
    """Return the command and the words that are left for its own parser.

    Raises:
        UsageError: the first word that is no flag names no command.
    """
    command, rest = descend(root, list(words))
    if command is root and (plain := plain_words(root, rest)):
        raise UsageError(f'unknown command {quote(plain[0])} for "{root.path}"{_suggestions(plain[0])}')
    return command, rest


def descend(
    command: Command, words: list[str], child_of: Callable[[str], Command | None] = find_command
) -> tuple[Command, list[str]]:
    """Return the innermost command that `words` name, and the words without the names."""
    plain = plain_words(command, words)
    child = child_of(plain[0]) if plain else None
    if child is None:
        return command, words
    return descend(child, _without_first(command, words, child.name), child.children.get)


def plain_words(command: Command, words: Sequence[str]) -> list[str]:
    """Return the words that are neither flags nor their values."""
    found, rest, flags = [], list(words), _known_flags(command)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if _takes_next(word, flags):
            if len(rest) <= 1:
                break
            rest.pop(0)
        elif word and not word.startswith("-"):
            found.append(word)
    return found


def _without_first(command: Command, words: list[str], name: str) -> list[str]:
    flags, at = _known_flags(command), 0
    while at < len(words) and words[at] != "--":
        if _takes_next(words[at], flags):
            at += 1
        elif words[at] == name:
            return words[:at] + words[at + 1 :]
        at += 1
    return words


def _known_flags(command: Command) -> tuple[Flag, ...]:
    """Return the flags that the search knows: `help` is none of them, so it takes the next word."""
    return (*(flag for flag in command.own_flags if flag.name != HELP_NAME), *GLOBAL_FLAGS)


def _takes_next(word: str, flags: Iterable[Flag]) -> bool:
    if "=" in word or not word.startswith("-") or word == "-":
        return False
    if word.startswith("--"):
        return not any(flag.name == word[2:] and not flag.takes_word for flag in flags)
    return len(word) == 2 and not any(flag.shorthand == word[1] and not flag.takes_word for flag in flags)


def _suggestions(typed: str) -> str:
    near = [
        command.name
        for command in all_commands()
        if not command.hidden
        and (
            _distance(typed.lower(), command.name.lower()) <= _SUGGESTION_DISTANCE
            or command.name.lower().startswith(typed.lower())
        )
    ]
    return "\n\nDid you mean this?\n" + "".join(f"\t{name}\n" for name in near) if near else ""


def _distance(one: str, other: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and changes of one letter."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, expected in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != expected))
    return row[-1]
