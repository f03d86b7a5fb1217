"""One flag, its kinds, and the values that a parsed command line gave."""

from __future__ import annotations

from pilot_agent.gotext import parse_bool, parse_integer, parse_unsigned
from pilot_agent.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final, Literal

    Kind = Literal["bool", "duration", "int", "int32", "uint16", "string", "stringArray"]

Value = bool | int | str | tuple[str, ...]


class Flag(Record):
    """A declared flag; `default` has the type that `kind` names."""

    name: str
    kind: Kind
    default: Value
    usage: str
    shorthand: str = ""
    choices: tuple[str, ...] = ()  # what shell completion offers; the command itself checks the value

    @property
    def takes_word(self) -> bool:
        """Return whether `--name word` uses the word; a bool only listens to `--name=word`."""
        return self.kind != "bool"

    @property
    def spelled(self) -> str:
        """Return the name as error texts have it: `-o, --output`."""
        return f"-{self.shorthand}, --{self.name}" if self.shorthand else f"--{self.name}"


HELP_NAME: Final = "help"


def _duration(text: str) -> str:
    """Return the text as it is, if it is a Go duration."""
    from pilot_agent.environment import duration_s  # noqa: PLC0415  # few commands have one

    duration_s(text)
    return text


_PARSERS: Final[dict[Kind, Callable[[str], Value]]] = {
    "bool": parse_bool,
    "int": parse_integer,
    "int32": lambda text: parse_integer(text, 32),
    "uint16": lambda text: parse_unsigned(text, 16),
    "duration": _duration,
    "string": str,
}


def parse_value(kind: Kind, text: str) -> Value:
    """Return what `text` means for a flag of this kind.

    Raises:
        ValueError: it is no such value; the message is Go's own.
    """
    return _PARSERS[kind](text)


class Values:
    """The values of a command's flags; typed access, so that a misspelt name cannot pass."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        self._flags = {flag.name: flag for flag in flags}
        self._given: dict[str, Value] = {}

    def take(self, flag: Flag, text: str) -> None:
        """Take one use of `flag`: the last wins, a list grows (its first use replaces the default).

        Raises:
            ValueError: the text is no value of the flag's kind; the message is Go's own.
        """
        if flag.kind == "stringArray":
            before = self._given.get(flag.name, ())
            assert isinstance(before, tuple)
            self._given[flag.name] = (*before, text)
        else:
            self._given[flag.name] = parse_value(flag.kind, text)

    def boolean(self, name: str) -> bool:
        """Return a bool flag's value."""
        value = self[name]
        assert isinstance(value, bool)
        return value

    def integer(self, name: str) -> int:
        """Return an integer flag's value."""
        value = self[name]
        assert isinstance(value, int)
        return value

    def string(self, name: str) -> str:
        """Return a string flag's value."""
        value = self[name]
        assert isinstance(value, str)
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """Return a list flag's value."""
        value = self[name]
        assert isinstance(value, tuple)
        return value

    def knows(self, name: str) -> bool:
        """Return whether the command has such a flag."""
        return name in self._flags

    def given(self, name: str) -> bool:
        """Return whether the flag stood on the command line."""
        return name in self._given

    def printed(self) -> list[tuple[str, str]]:
        """Return (name, value as text) of every flag, sorted by name."""
        return [(name, as_text(self[name])) for name in sorted(self._flags)]

    def __getitem__(self, name: str) -> Value:
        flag = self._flags[name]
        return self._given.get(name, flag.default)


def as_text(value: Value) -> str:
    """Return a value as the reference prints it: `true`, `15000`, `[a,b]`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{','.join(map(_csv_field, value))}]"
    return str(value)


def _csv_field(text: str) -> str:
    special = any(character in text for character in ',"\r\n') or text.startswith((" ", "\t"))
    return '"' + text.replace('"', '""') + '"' if special else text
