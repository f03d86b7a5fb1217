"""The settings objects that the command line made, one of each type, inherited by fork."""

from collections.abc import Iterable
from typing import TypeVar

M = TypeVar("M")


class Settings:
    """Finds a topic's settings by their type."""

    def __init__(self, options: Iterable[object]) -> None:
        self._by_type = {type(option): option for option in options}

    def get(self, settings_type: type[M]) -> M:
        """Return the one object of this type.

        Raises:
            LookupError: nobody made one (a programming error).
        """
        try:
            found = self._by_type[settings_type]
        except KeyError:
            raise LookupError(f"no settings of type {settings_type.__name__}") from None
        assert isinstance(found, settings_type)
        return found
