"""A repr that leaves fields out, for what holds a key or a token: none of it gets into a log line."""

from collections.abc import Callable, Iterable
from typing import Any


def without(*hidden: str) -> Callable[[Any], str]:  # Any: the struct that it becomes a method of
    """Return a `__repr__` for a `msgspec.Struct` that shows every field but the `hidden` ones."""

    def shown(self: Any) -> str:
        return text(self, self.__struct_fields__, *hidden)

    return shown


def text(value: object, fields: Iterable[str], *hidden: str) -> str:
    """Return `Type(field=value, …)` with every field but the `hidden` ones."""
    names = (name for name in fields if name not in hidden)
    return f"{type(value).__name__}({', '.join(f'{name}={getattr(value, name)!r}' for name in names)})"
