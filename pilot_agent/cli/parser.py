"""Splits words into flags and arguments by the rules of pflag, the reference's flag library.

argparse cannot be bent to them: it abbreviates names, refuses unknown flags or keeps their values,
and takes the word behind a boolean.
"""

from __future__ import annotations

from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag, Values
from pilot_agent.gotext import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Parser:
    """One pass over the words of one command."""

    def __init__(self, flags: Sequence[Flag], *, drop_unknown: bool) -> None:
        self._by_name = {flag.name: flag for flag in flags}
        self._by_shorthand = {flag.shorthand: flag for flag in flags if flag.shorthand}
        self._drop_unknown = drop_unknown
        self.values = Values(flags)
        self.arguments: list[str] = []

    def parse(self, words: Sequence[str]) -> None:
        """Fill `values` and `arguments`.

        Raises:
            CliError: an unknown flag (unless they are dropped), a missing or a bad value.
        """
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("-") or word == "-":
                self.arguments.append(word)
            elif word == "--":
                self.arguments += rest
                return
            elif word.startswith("--"):
                self._long(word, rest)
            else:
                self._shorthands(word[1:], rest)

    def _long(self, word: str, rest: list[str]) -> None:
        name, equals, text = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise CliError(f"bad flag syntax: {word}")
        flag = self._by_name.get(name)
        if flag is None:
            self._unknown(f"unknown flag: --{name}", [] if equals else rest)
        elif equals:
            self._take(flag, text)
        elif not flag.takes_word:
            self._take(flag, "true")
        elif rest:
            self._take(flag, rest.pop(0))
        else:
            raise CliError(f"flag needs an argument: --{name}")

    def _shorthands(self, letters: str, rest: list[str]) -> None:
        """Take `-s`, `-sv`, `-oVALUE`, `-o=VALUE` or `-o VALUE`; `letters` are those behind the dash.

        As in pflag, each letter sees the words as they were: only the last one can use one up.
        """
        words = list(rest)
        while letters:
            rest[:] = words
            letter, behind = letters[0], letters[1:]
            flag = self._by_shorthand.get(letter)
            attached = len(behind) > 1 and behind.startswith("=")
            if flag is None:
                text = f"unknown shorthand flag: {quote(letter, chr(39))} in -{letters}"
                self._unknown(text, [] if attached else rest)
                letters = "" if attached else behind
            elif attached:
                self._take(flag, behind[1:])
                return
            elif not flag.takes_word:
                self._take(flag, "true")
                letters = behind
            elif behind or rest:
                self._take(flag, behind or rest.pop(0))
                return
            else:
                raise CliError(f"flag needs an argument: {quote(letter, chr(39))} in -{letters}")

    def _unknown(self, text: str, rest: list[str]) -> None:
        """Drop an unknown flag with the word behind it, if that can be its value, or refuse it."""
        if not self._drop_unknown:
            raise CliError(text)
        if rest and not rest[0].startswith("-"):
            rest.pop(0)

    def _take(self, flag: Flag, text: str) -> None:
        try:
            self.values.take(flag, text)
        except ValueError as error:
            raise CliError(f'invalid argument {quote(text)} for "{flag.spelled}" flag: {error}') from error
