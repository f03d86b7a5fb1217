"""Typed reading of variables: a bad value gives one warning and the default."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from pilot_agent.environment.duration import duration_s, go_duration
from pilot_agent.gotext import parse_bool, quote

T = TypeVar("T")

_OFF: Final = frozenset({"off", "no", "none", "disabled"})
_INT: Final = re.compile(r"[+-]?[0-9]+")
_INT_DIGITS: Final = 1000  # Python refuses to read thousands
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Environment:
    """A snapshot of variables, with the warnings that reading them gave (`warnings`, in order)."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = dict(variables)
        self.warnings: list[str] = []

    def string(self, name: str, default: str = "") -> str:
        """Return the text; set but empty is empty, not the default."""
        return self._variables.get(name, default)

    def boolean(self, name: str, default: bool) -> bool:
        """Return a Go bool (1 t T TRUE true True, 0 f F FALSE false False)."""
        return self._parsed(name, default, parse_bool)

    def switch(self, name: str, default: bool) -> bool:
        """Return a Go bool, or what people write for one: on; off, no, none, disabled. Empty: the default."""
        text = self.string(name).strip().lower()
        if text in _OFF:
            return False
        return default if not text else text == "on" or self.boolean(name, default)

    def optional_boolean(self, name: str) -> bool | None:
        """Return a Go bool, or None when the variable is not set or is none."""
        return self._parsed(name, None, parse_bool)

    def integer(self, name: str, default: int) -> int:
        """Return a decimal integer with an optional sign."""
        return self._parsed(name, default, _parse_int)

    def number(self, name: str, default: float) -> float:
        """Return a decimal or scientific number."""
        return self._parsed(name, default, _parse_float)

    def seconds(self, name: str, default_s: float) -> float:
        """Return a Go duration in seconds."""
        return self._parsed(name, default_s, duration_s, go_duration(default_s))

    def items(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield (name without `prefix`, value) of every variable that begins with it, in order."""
        for name, value in self._variables.items():
            if name.startswith(prefix):
                yield name.removeprefix(prefix), value

    def as_dict(self) -> dict[str, str]:
        """Return all variables, for a child process."""
        return dict(self._variables)

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def _parsed(self, name: str, default: T, parse: Callable[[str], T], shown: str = "") -> T:
        text = self._variables.get(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as error:
            shown = shown or (str(default).lower() if isinstance(default, bool) else str(default))
            self.warnings.append(
                f"Invalid environment variable value `{text}` for {name}, using default {shown}: {error}"
            )
            return default


def _parse_int(text: str) -> int:
    if not _INT.fullmatch(text):
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: invalid syntax")
    if len(text) > _INT_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: value out of range")
    return int(text)


def _parse_float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(f"strconv.ParseFloat: parsing {quote(text)}: invalid syntax")
    if math.isinf(value := float(text)):
        raise ValueError(f"strconv.ParseFloat: parsing {quote(text)}: value out of range")
    return value
